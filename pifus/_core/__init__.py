"""What the public modules of pifus share; nothing here is public."""
