"""A fleet of MQTT sensors, by paho-mqtt: `sensors.py HOST PORT COUNT READINGS`.

Each has a connection of its own and publishes its readings at quality of service 1; when its
connection breaks, the broker tells its last will. Knows nothing of pifus.
"""

import json
import math
import os
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

host = sys.argv[1]
port, count, readings = map(int, sys.argv[2:])


def sensor(number: int) -> mqtt.Client:
    """A connected sensor."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=f"sensor{number}")
    client.will_set(f"fleet/{number}/state", "lost", qos=1)
    client.connect(host, port, keepalive=30)
    client.loop_start()
    client.publish(f"fleet/{number}/state", "here", qos=1).wait_for_publish(30)
    return client


fleet = [sensor(number) for number in range(count)]
for step in range(readings):
    under_way = []
    for number, client in enumerate(fleet):
        reading = {"step": step, "celsius": 20 + math.sin(step / 10 + number), "at": time.time()}
        under_way.append(client.publish(f"fleet/{number}/reading", json.dumps(reading), qos=1))
    for message in under_way:
        message.wait_for_publish(30)
for client in fleet[1:]:
    client.publish(f"fleet/{fleet.index(client)}/state", "gone", qos=1).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()
os._exit(0)  # the first one breaks down
