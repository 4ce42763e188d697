"""A Django site in one file, and its manage.py: a database, forms, uploads, a stream."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    DEBUG=True,
    SECRET_KEY="not a secret",
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    STATIC_URL="/static/",
    STATICFILES_DIRS=[str(Path.cwd() / "static")],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite"}},
)
django.setup()


def upload(request: HttpRequest) -> JsonResponse:
    content = request.FILES["file"].read()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS uploads (digest TEXT, process INTEGER)")
        digest = hashlib.sha256(content).hexdigest()
        cursor.execute("INSERT INTO uploads VALUES (%s, %s)", [digest, os.getpid()])
    return JsonResponse({"name": request.POST["name"], "digest": digest})


def uploads(_: HttpRequest) -> JsonResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT digest, process FROM uploads")
        return JsonResponse({"rows": cursor.fetchall()})


def stream(_: HttpRequest, blocks: int) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        for number in range(blocks):
            yield hashlib.shake_256(b"%d" % number).digest(10_000)

    return StreamingHttpResponse(parts())


def process(_: HttpRequest) -> HttpResponse:
    return HttpResponse(str(os.getpid()))


urlpatterns = [
    path("upload", upload),
    path("uploads", uploads),
    path("stream/<int:blocks>", stream),
    path("process", process),
]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
