"""paho-mqtt: topics at all levels of quality, large messages, a will; its own thread and loop."""

import hashlib
import os
import queue
import sys

import paho.mqtt.client as mqtt

host, port, client_address = sys.argv[1:]
TIMES = 200
BLOB = os.urandom(1_000_000)


class Client:
    """A connected client whose network thread fills a queue."""

    def __init__(self, name: str, will: bytes | None = None, **options: object) -> None:
        self.messages: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.events: queue.Queue[str] = queue.Queue()
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, **options)
        self.mqtt.on_message = lambda _client, _data, message: self.messages.put(message)
        self.mqtt.on_connect = lambda *_: self.events.put("connected")
        self.mqtt.on_subscribe = lambda *_: self.events.put("subscribed")
        self.mqtt.on_disconnect = lambda *_: self.events.put("disconnected")
        if will is not None:
            self.mqtt.will_set("wills", will, qos=1)
        self.mqtt.connect(host, int(port), keepalive=5)
        self.mqtt.loop_start()
        self.until("connected")
        assert self.mqtt.socket().getsockname()[0] == client_address

    def until(self, event: str) -> None:
        assert self.events.get(timeout=30) == event

    def subscribe(self, topic: str, qos: int) -> None:
        self.mqtt.subscribe(topic, qos)
        self.until("subscribed")

    def received(self) -> bytes:
        return self.messages.get(timeout=30).payload

    def close(self) -> None:
        self.mqtt.disconnect()
        self.until("disconnected")
        self.mqtt.loop_stop()


def exchange(**options: object) -> None:
    subscriber = Client("subscriber", **options)
    publisher = Client("publisher", **options)
    for qos in (0, 1, 2):
        subscriber.subscribe(f"quality/{qos}/#", qos)
        # By one of those waiting: the broker keeps a bounded number of them.
        for start in range(0, TIMES, 20):
            numbers = range(start, start + 20)
            sent = [publisher.mqtt.publish(f"quality/{qos}/{n}", b"%d" % n, qos) for n in numbers]
            for each in sent:
                each.wait_for_publish(30)
            assert [subscriber.received() for _ in numbers] == [b"%d" % n for n in numbers]
        publisher.mqtt.publish(f"quality/{qos}/blob", BLOB, qos).wait_for_publish(60)
        assert hashlib.sha256(subscriber.received()).digest() == hashlib.sha256(BLOB).digest()
    publisher.close()
    subscriber.close()


def will() -> None:
    """A client that dies without saying so: the broker tells the others."""
    heir = Client("heir")
    heir.subscribe("wills", 1)
    dying = Client("dying", will=b"all I have")
    dying.mqtt.socket().close()
    assert heir.received() == b"all I have"
    dying.mqtt.loop_stop()
    heir.close()


exchange(protocol=mqtt.MQTTv311)
exchange(protocol=mqtt.MQTTv5)
will()
print("all well")
