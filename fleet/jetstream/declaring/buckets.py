"""Declares buckets as the table has them. A bucket is a stream: what exists is compared as for every other."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, ObjectStoreConfig, StreamConfig

from fleet import subjects
from fleet.config import Settings
from fleet.event_loop import all_of
from fleet.jetstream.declaring import ownership
from fleet.jetstream.declaring.differences import changed, drift, refuse_other_storage
from fleet.jetstream.declaring.refusals import told
from fleet.jetstream.declaring.sizes import size_config
from fleet.jetstream.lifetimes import DAY_S, HOUR_S, LETTERS_S, MINUTE_S
from fleet.jetstream.streams import BUCKETS, BucketSpec

log = structlog.get_logger(__name__)


def config_of(spec: BucketSpec, settings: Settings) -> dict[str, Any]:
    """The settings of the stream behind it, as far as the fleet has an opinion."""
    limits = settings.limits
    keep_s = limits.results_days * DAY_S
    texts = {"max_age": max(keep_s, LETTERS_S), "allow_msg_ttl": True, "allow_direct": True}
    more: dict[str, dict[str, Any]] = {
        # With replicas a direct get may answer with an old state.
        subjects.BUCKET: {"max_age": keep_s, "allow_direct": limits.replicas == 1},
        subjects.WORKERS_BUCKET: {"max_age": MINUTE_S, "allow_direct": True},
        subjects.KEYS: {"max_age": 0.0, "allow_direct": False},
        subjects.CACHE: {
            "max_age": min(limits.cache_hours * HOUR_S, keep_s),
            "allow_direct": limits.replicas == 1,
            "discard": DiscardPolicy.OLD,
        },
        # Each text has a lifetime of its own; this is the longest.
        subjects.TEXTS: texts,
        subjects.ANSWERS: texts,
    }
    return {
        "name": spec.stream,
        "subjects": list(spec.subjects),
        "description": subjects.DESCRIPTIONS[spec.name],
        "num_replicas": limits.replicas,
        "metadata": ownership.mark(settings.fleet_name),
        "allow_rollup_hdrs": not spec.append_only,
        **size_config(settings, spec.stream),
        **more[spec.name],
    }


async def declare(
    js: JetStreamContext, settings: Settings, existing: Mapping[str, StreamConfig], created: list[str]
) -> None:
    """Creates what is missing and updates what differs. Streams that were missing are added to `created`."""

    async def declare_one(spec: BucketSpec) -> None:
        config = config_of(spec, settings)
        with told(f"the bucket of {spec.stream}"):
            if (as_it_is := existing.get(spec.stream)) is None:
                await _create(js, spec, config)
                created.append(spec.stream)
                as_it_is = (await js.stream_info(spec.stream)).config
            if changes := drift(as_it_is, SimpleNamespace(**config)):
                log.info("stream.updated", stream=spec.stream, changes=changes)
                refuse_other_storage(spec.stream, changes)
                await js.update_stream(changed(as_it_is, changes))

    await all_of(declare_one(spec) for spec in BUCKETS)


async def _create(js: JetStreamContext, spec: BucketSpec, config: dict[str, Any]) -> None:
    if spec.append_only:
        await js.add_stream(StreamConfig(**config, discard=DiscardPolicy.NEW))
        return
    common = {
        "bucket": spec.name,
        "description": config["description"],
        "ttl": config["max_age"],
        "replicas": config["num_replicas"],
        "storage": config["storage"],
        "max_bytes": config["max_bytes"],
    }
    if spec.kind == "keys":
        await js.create_key_value(KeyValueConfig(**common, history=1, direct=config["allow_direct"]))
    else:
        await js.create_object_store(spec.name, ObjectStoreConfig(**common))
