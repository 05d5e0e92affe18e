"""A bridge between rooms and a RabbitMQ (AMQP 0-9-1): ``realtime-chat amqp``, see ``docs/howto/rabbitmq.rst``.

It is a client of both. What is published to an exchange is stored in a room, and acknowledged after that. What is
published in a room is published to an exchange.
"""
