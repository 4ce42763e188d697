"""scrapy: `scrapy runspider` through 200 linked pages, redirects, a dead port, items to a file."""

import json
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from peers import free_port, python, threaded

PAGES = 200
SPIDER = """
import scrapy

class Spider(scrapy.Spider):
    name = "spider"
    start_urls = ["http://127.0.0.1:{port}/0", "http://127.0.0.1:{dead}/"]
    custom_settings = dict(
        LOG_LEVEL="CRITICAL", RETRY_TIMES=1, DOWNLOAD_DELAY=0, CONCURRENT_REQUESTS_PER_DOMAIN=16
    )

    def parse(self, response):
        yield dict(number=int(response.css("p::text").get()))
        for link in response.css("a::attr(href)"):
            yield response.follow(link.get(), self.parse)
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        number = int(self.path.rpartition("/")[2])
        links = [child for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
        body = "".join(f'<a href="/{child}">{child}</a>' for child in links) + f"<p>{number}</p>"
        moved = number % 7 == 3 and not self.path.startswith("/moved/")
        self.send_response(302 if moved else 200)
        if moved:
            self.send_header("Location", f"/moved/{number}")
            body = ""
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with threaded(server):
    spider = Path("spider.py")
    spider.write_text(SPIDER.format(port=server.server_port, dead=free_port()))
    command = python("-m", "scrapy", "runspider", str(spider), "-o", "items.json")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
items = json.loads(Path("items.json").read_text())
assert sorted(item["number"] for item in items) == list(range(PAGES))
print("all well")
