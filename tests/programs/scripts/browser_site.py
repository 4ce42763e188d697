"""aiohttp's site in Chromium, plain and over TLS: many requests, uploads, streams, websockets."""

import asyncio
import contextlib
import ssl
import subprocess
import sys
from pathlib import Path

from aiohttp import web

address, browser_address, certificate, browser = sys.argv[1:]
SECONDS = 60
UPLOAD = bytes((31 * place + 7) % 256 for place in range(1_000_000))

# The page says what it found in its last request. Its random bytes follow a rule that both know.
PAGE = """<!doctype html><meta charset="utf-8"><title>site</title><script type="module">
const byte = (place, seed) => (31 * place + seed) % 256;
const check = (right, what) => { if (!right) throw new Error(what); };
const made = (size, seed) => Uint8Array.from({length: size}, (_, place) => byte(place, seed));
const same = (bytes, size, seed) =>
    bytes.length === size && bytes.every((value, place) => value === byte(place, seed));

async function downloads() {
    await Promise.all(Array.from({length: 60}, async (_, seed) => {
        const size = 1 + 5000 * seed;
        const answer = await fetch(`bytes/${size}/${seed}`, {cache: "no-store"});
        check(same(new Uint8Array(await answer.arrayBuffer()), size, seed), `download ${seed}`);
    }));
}

async function pictures() {
    await Promise.all(Array.from({length: 30}, (_, seed) => new Promise((done, failed) => {
        const picture = new Image();
        picture.onload = done;
        picture.onerror = () => failed(new Error(`picture ${seed}`));
        picture.src = `picture/${seed}`;
        document.documentElement.append(picture);
    })));
}

async function uploads() {
    for (let turn = 0; turn < 3; turn++) {
        const answer = await fetch("upload", {method: "POST", body: made(1_000_000, 7)});
        check(await answer.text() === "as sent", "upload");
    }
}

async function cutShort() {
    for (let turn = 0; turn < 5; turn++) {
        const stop = new AbortController();
        const answer = await fetch("endless", {signal: stop.signal});
        await answer.body.getReader().read();
        stop.abort();
    }
}

function messages() {
    return new Promise((done, failed) => {
        const socket = new WebSocket(location.href.replace("http", "ws") + "socket");
        let sent = 0, back = 0;
        socket.binaryType = "arraybuffer";
        socket.onopen = () => { while (sent < 200) socket.send(made(1 + 300 * sent, sent++)); };
        socket.onmessage = (event) => {
            const bytes = new Uint8Array(event.data).reverse();
            if (!same(bytes, 1 + 300 * back, back)) failed(new Error(`message ${back}`));
            if (++back === 200) socket.close(1000);
        };
        socket.onerror = () => failed(new Error("websocket"));
        socket.onclose = (event) =>
            back === 200 && event.wasClean ? done() : failed(new Error(`closed after ${back}`));
    });
}

function events() {
    return new Promise((done, failed) => {
        const source = new EventSource("events");
        let next = 0;
        source.onerror = () => failed(new Error("events"));
        source.onmessage = (event) => {
            if (Number(event.data) !== next++) failed(new Error(`event ${next}`));
            if (next === 50) { source.close(); done(); }
        };
    });
}

let told = "all well";
try {
    await Promise.all([downloads(), pictures(), uploads(), cutShort(), messages(), events()]);
} catch (error) {
    told = String(error);
}
await fetch("told", {method: "POST", body: told});
</script>"""


def made(size: int, seed: int) -> bytes:
    return bytes((31 * place + seed) % 256 for place in range(size))


async def page(request: web.Request) -> web.Response:
    assert request.remote == browser_address, request.remote
    return web.Response(text=PAGE, content_type="text/html")


async def some_bytes(request: web.Request) -> web.Response:
    size, seed = int(request.match_info["size"]), int(request.match_info["seed"])
    return web.Response(body=made(size, seed))


async def picture(request: web.Request) -> web.Response:
    grey = int(request.match_info["seed"]) * 8
    shape = f'<rect width="9" height="9" fill="rgb({grey},{grey},{grey})"/>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{shape}</svg>'
    return web.Response(text=text, content_type="image/svg+xml")


async def upload(request: web.Request) -> web.Response:
    return web.Response(text="as sent" if await request.read() == UPLOAD else "not as sent")


async def endless(request: web.Request) -> web.StreamResponse:
    """Until the browser goes, which it does by a reset."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(UPLOAD[:100_000])
            await asyncio.sleep(0)  # else a connection that broke would never be told of
    return response


async def socket(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse()
    await connection.prepare(request)
    async for message in connection:
        await connection.send_bytes(message.data[::-1])
    return connection


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the page has enough of them
        for number in range(50):
            await response.write(b"data: %d\n\n" % number)
    return response


def surf(url: str) -> subprocess.Popen[bytes]:
    """The browser, with a profile that it forgets."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--no-first-run", "--disable-background-networking", "--no-proxy-server"]
    options += ["--ignore-certificate-errors", f"--user-data-dir={Path.cwd() / 'profile'}"]
    return subprocess.Popen([browser, *options, url], stdout=subprocess.DEVNULL)


async def main() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()

    async def tell(request: web.Request) -> web.Response:
        await told.put(await request.text())
        return web.Response()

    app = web.Application(client_max_size=2**30)
    app.add_routes(
        [
            web.get("/", page),
            web.get("/bytes/{size}/{seed}", some_bytes),
            web.get("/picture/{seed}", picture),
            web.post("/upload", upload),
            web.get("/endless", endless),
            web.get("/socket", socket),
            web.get("/events", events),
            web.post("/told", tell),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    for ssl_context in (None, context):
        await web.TCPSite(runner, address, 0, ssl_context=ssl_context).start()
    for scheme, bound in zip(("http", "https"), runner.addresses, strict=True):
        process = surf(f"{scheme}://{address}:{bound[1]}/")
        try:
            found = await asyncio.wait_for(told.get(), SECONDS)
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
        assert found == "all well", f"{scheme}: {found}"
    await runner.cleanup()


asyncio.run(main())
print("all well")
