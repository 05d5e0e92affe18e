"""Publish a chat message to RabbitMQ: post.py KEY TEXT ID"""

import json
import os
import sys

import pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost/%2F")


def post(key: str, text: str, id: str) -> None:
    """Publish, and wait until RabbitMQ has the message. The bridge stores it once for each ID."""
    message = {"uid": "RabbitMQ", "message": text}
    properties = pika.BasicProperties(delivery_mode=2, content_type="application/json", message_id=id)
    with pika.BlockingConnection(pika.URLParameters(URL)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("amq.topic", key, json.dumps(message), properties)


post(*sys.argv[1:])
