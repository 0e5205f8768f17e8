"""Decides which secrets a process passes on, and which it takes from its own machine: workers get none from others."""

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from fleet.config import Settings, fields, read_file, without_userinfo
from fleet.secret_files import SECRETS

CREDENTIALS = (
    *("nats_user", "nats_password", "nats_token", "nats_creds", "nats_nkey_seed_file"),
    *("nats_ca", "nats_cert", "nats_key", "vllm_api_key"),
)
"""Secrets, and files that lie on one machine."""
_OWN = (*SECRETS, "NATS_CREDS", "NATS_NKEY_SEED_FILE", "NATS_CA", "NATS_CERT", "NATS_KEY")


def without_secrets(settings: Settings) -> Settings:
    """What one process may tell another, on a machine that others can look into."""
    return replace(
        settings,
        **dict.fromkeys(CREDENTIALS),
        secret_files={},
        nats_url=without_userinfo(settings.nats_url) if settings.nats_url else None,
        vllm_urls=tuple(map(without_userinfo, settings.vllm_urls)),
    )


def with_own_secrets(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """`settings`, but with the NATS address and all credentials that `environ` names: those of the node it runs on."""
    path = environ.get("FLEET_CONFIG")
    own = fields(read_file(Path(path)) if path else {}, environ, _OWN)
    known = {without_userinfo(url): url for url in own.pop("vllm_urls", ())}
    urls = tuple(known.get(url, url) for url in settings.vllm_urls)
    return replace(settings, **own, vllm_urls=urls)


def secrets_of(settings: Settings) -> list[object]:
    """What `without_secrets` leaves out, with the addresses that it may stand in."""
    return [settings.nats_url, settings.vllm_urls, *(getattr(settings, field) for field in CREDENTIALS)]
