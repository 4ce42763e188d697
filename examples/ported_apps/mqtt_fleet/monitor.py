"""Watches the fleet: `monitor.py HOST PORT COUNT`; prints what it heard when nobody is left.

Knows nothing of pifus.
"""

import json
import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

host = sys.argv[1]
port, count = map(int, sys.argv[2:])
readings: set[tuple[str, int]] = set()
states: dict[str, str] = {}
delays: list[float] = []
over = threading.Event()


def hear(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
    _, number, kind = message.topic.split("/")
    if kind == "state":
        states[number] = message.payload.decode()
        if len(states) == count and "here" not in states.values():
            over.set()
    else:
        reading = json.loads(message.payload)
        delays.append(time.time() - reading["at"])
        readings.add((number, reading["step"]))


client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="monitor")
client.on_message = hear
client.on_subscribe = lambda *_: print("listening", flush=True)
client.connect(host, port)
client.subscribe("fleet/#", qos=1)
client.loop_start()
over.wait(100)
client.disconnect()
client.loop_stop()
delays.sort()
print(
    json.dumps(
        {
            "readings": len(readings),
            "lost": sorted(number for number, state in states.items() if state == "lost"),
            "p50_ms": delays[len(delays) // 2] * 1000,
        }
    )
)
