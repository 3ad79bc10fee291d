"""The only door to the broker: nothing outside this package imports the NATS client.

What leaves it is a `Message`, a sequence or an error of our own tree. It speaks the JetStream API
by its subjects instead of through the client's helpers where those would open rights too wide
(unfiltered consumers), hide what we need (headers of a batch) or lose messages (republished reads).
"""

from nats.aio.client import Client

from blackboard.jetstream.connection import Connection
from blackboard.jetstream.consumer import ASKED, ConsumerInfo, Durable, Start, consumers
from blackboard.jetstream.errors import BrokerError, NoStreamError
from blackboard.jetstream.follower import Follower, follow
from blackboard.jetstream.message import Message, Outgoing
from blackboard.jetstream.puller import Delivery, Puller, pull
from blackboard.jetstream.restricted import Restricted
from blackboard.jetstream.service import Answer, Handler, refusal, serve_requests
from blackboard.jetstream.stream import Placement, Stream, StreamInfo
from blackboard.jetstream.tap import tap

__all__ = [
    "ASKED",
    "Answer",
    "BrokerError",
    "Client",
    "Connection",
    "ConsumerInfo",
    "Delivery",
    "Durable",
    "Follower",
    "Handler",
    "Message",
    "NoStreamError",
    "Outgoing",
    "Placement",
    "Puller",
    "Restricted",
    "Start",
    "Stream",
    "StreamInfo",
    "consumers",
    "follow",
    "pull",
    "refusal",
    "serve_requests",
    "tap",
]
