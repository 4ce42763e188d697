"""A Flask application: forms, files, sessions, a stream."""

import hashlib
import os
from collections.abc import Iterator

import flask

app = flask.Flask(__name__)
app.secret_key = os.urandom(16)


@app.post("/upload")
def upload() -> flask.Response:
    content = flask.request.files["file"].read()
    return flask.jsonify(
        name=flask.request.form["name"],
        digest=hashlib.sha256(content).hexdigest(),
        process=os.getpid(),
    )


@app.get("/count")
def count() -> str:
    flask.session["count"] = flask.session.get("count", 0) + 1
    return str(flask.session["count"])


@app.get("/stream/<int:blocks>")
def stream(blocks: int) -> flask.Response:
    def parts() -> Iterator[bytes]:
        for number in range(blocks):
            yield hashlib.shake_256(b"%d" % number).digest(10_000)

    return flask.Response(parts(), mimetype="application/octet-stream")
