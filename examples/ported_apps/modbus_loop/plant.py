"""The plant: a Modbus/TCP server over completions, all connections in one thread.

Register 0 is the inflow of a tank, register 1 its level; the others are the times of the request
(tank.py). Listens once with HIGH priority and once with MEDIUM, and prints the two ports.
"""

import gc
import time

import modbus
from tank import Tank

import pifus


def listen(client: pifus.Client, priority: pifus.Priority) -> pifus.Socket:
    listener = client.socket(priority=priority)
    listener.bind(("127.0.0.1", 0))
    listener.wait().check()
    listener.listen()
    listener.wait().check()
    listener.accept(multishot=True)
    return listener


def port_of(sock: pifus.Socket) -> int:
    address = sock.local_address
    assert address is not None
    return address[1]


def main() -> None:
    received: dict[pifus.Socket, bytes] = {}
    tank = Tank()
    with pifus.Client(max_sockets=16, name="plant", stamp_reaped=True) as client:
        listeners = [listen(client, p) for p in (pifus.Priority.HIGH, pifus.Priority.MEDIUM)]
        ports = [port_of(listener) for listener in listeners]
        print(*ports, flush=True)
        gc.freeze()
        gc.disable()
        while True:
            done = client.wait_any()
            if done.accepted is not None:
                received[done.accepted] = b""
                done.accepted.recv(260)
            elif done.data:
                sock = done.sock
                data = received[sock] + done.data
                while size := modbus.complete(data):
                    tank.step()
                    tank.note(done.completed_ns, done.reaped_ns, time.monotonic_ns())
                    sock.write(modbus.carry_out(data[:size], tank.registers))
                    data = data[size:]
                received[sock] = data
                sock.recv(260)
            elif done.opcode == pifus.Opcode.RECV:
                del received[done.sock]
                done.sock.release()


main()
