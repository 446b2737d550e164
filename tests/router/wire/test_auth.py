"""Rules of the wire: API keys."""

from hashlib import sha256

import openai
import pytest
from tests.router.wire.harness import (
    QWEN,
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    asked,
    wait_until,
    write_secrets,
)

KEYS = {"alice": "sk-alice-0123456789abcdef", "bob": "sk-bob-fedcba9876543210"}
LOCKED = {"type": "APIKey", "secretRef": {"name": "keys"}}
#: A changed file is served within this many seconds, says the contract.
RELOAD = 15.0


def bearer(key: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"authorization": f"{scheme} {key}"}


@pytest.fixture
def locked(router: StartRouter, profile: Profile) -> Router:
    return router(profile(auth=LOCKED), secrets={"keys": KEYS})


def client(router: Router, key: str) -> openai.OpenAI:
    return router.openai.with_options(api_key=key)


# -- who gets in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", KEYS)
def test_every_tenant_has_a_key(locked: Router, tenant: str) -> None:
    assert client(locked, KEYS[tenant]).chat.completions.create(**asked()).choices
    assert client(locked, KEYS[tenant]).models.list().data


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
def test_the_schemes_case_does_not_matter(locked: Router, scheme: str) -> None:
    assert locked.post(asked(), bearer(KEYS["bob"], scheme)).status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_api_key"),
        ({"authorization": ""}, "missing_api_key"),
        ({"authorization": "Bearer"}, "missing_api_key"),
        ({"authorization": "Bearer  "}, "missing_api_key"),
        ({"authorization": KEYS["alice"]}, "missing_api_key"),
        ({"authorization": f"Basic {KEYS['alice']}"}, "missing_api_key"),
        ({"x-api-key": KEYS["alice"]}, "missing_api_key"),
        (bearer("sk-wrong"), "invalid_api_key"),
        (bearer("alice"), "invalid_api_key"),
        (bearer(KEYS["alice"] + "0"), "invalid_api_key"),
        (bearer(KEYS["alice"][:-1]), "invalid_api_key"),
        (bearer(KEYS["alice"].upper()), "invalid_api_key"),
        (bearer("ключ".encode().decode("latin-1")), "invalid_api_key"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_nobody_else_gets_in(
    locked: Router, simulator: Simulator, headers: dict[str, str], code: str, *, streamed: bool
) -> None:
    for reply in (locked.post(asked(stream=streamed), headers), locked.get("/v1/models", headers)):
        assert reply.status == 401
        assert (reply.error["type"], reply.error["code"]) == ("authentication_error", code)
        assert reply.headers["www-authenticate"] == "Bearer"
    assert simulator.calls() == []


def test_the_sdk_knows_that_401(locked: Router) -> None:
    with pytest.raises(openai.AuthenticationError):
        client(locked, "sk-wrong").chat.completions.create(**asked())


def test_whoever_has_no_key_does_not_learn_which_names_there_are(locked: Router) -> None:
    for model in ("nobody", "research", "qwen", QWEN, "research:single", "research:vote"):
        assert locked.post({**asked(), "model": model}).status == 401
        assert locked.get(f"/v1/models/{model}").status == 401
    assert locked.post({**asked(), "model": "nobody"}, bearer(KEYS["alice"])).status == 404
    assert locked.get("/v1/models/nobody", bearer(KEYS["alice"])).status == 404


def test_without_auth_any_key_will_do(small: Router) -> None:
    assert client(small, "whatever").chat.completions.create(**asked()).choices


# -- several profiles --------------------------------------------------------------------------------------------------


@pytest.fixture
def three(router: StartRouter, profile: Profile) -> Router:
    """Two locked profiles with keys of their own, and an open one."""
    return router(
        profile(auth=LOCKED),
        profile(
            name="other", upstreams=[{"name": "qwen", "model": "other"}], auth={**LOCKED, "secretRef": {"name": "more"}}
        ),
        profile(name="open", upstreams=[{"name": "qwen", "model": "paced"}]),
        secrets={"keys": {"alice": KEYS["alice"]}, "more": {"bob": KEYS["bob"]}},
    )


def test_a_key_opens_its_own_profile_alone(three: Router) -> None:
    def status(model: str, key: str) -> int:
        return three.post({**asked(), "model": model}, bearer(KEYS[key])).status

    assert (status("research", "alice"), status("other", "alice"), status("open", "alice")) == (200, 401, 200)
    assert (status("research", "bob"), status("other", "bob"), status("open", "bob")) == (401, 200, 200)
    assert (status(QWEN, "bob"), status("other:single", "alice")) == (401, 401)


def test_models_are_those_the_key_opens(three: Router) -> None:
    def owners(headers: dict[str, str] | None) -> set[str]:
        return {model["owned_by"] for model in three.get("/v1/models", headers).json["data"]}

    assert owners(bearer(KEYS["alice"])) == {"moa:research", "moa:open"}
    assert owners(bearer(KEYS["bob"])) == {"moa:other", "moa:open"}
    assert owners(None) == owners(bearer("sk-wrong")) == {"moa:open"}
    assert three.get("/v1/models/research", bearer(KEYS["alice"])).status == 200
    assert three.get("/v1/models/research", bearer(KEYS["bob"])).status == 404


# -- rotation ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(router: StartRouter, profile: Profile) -> Router:
    return router(profile(auth=LOCKED), secrets={"keys": KEYS}, fresh=True)


def status_of(router: Router, key: str) -> int:
    return router.get("/v1/models", bearer(key)).status


def test_keys_are_rotated_without_a_restart(own: Router) -> None:
    pid = own.process.pid
    write_secrets(own.secrets_dir, {"keys": {"alice": "sk-alice-the-second"}})
    (own.secrets_dir / "keys" / "bob").unlink()
    own.reload()
    wait_until(lambda: status_of(own, "sk-alice-the-second") == 200, "the new key")
    assert [status_of(own, KEYS["alice"]), status_of(own, KEYS["bob"])] == [401, 401]
    write_secrets(own.secrets_dir, {"keys": {"carol": "sk-carol\n"}})
    own.reload()
    wait_until(lambda: status_of(own, "sk-carol") == 200, "the new tenant")
    assert own.process.pid == pid
    assert own.process.popen.poll() is None


def test_a_changed_key_is_served_without_a_signal(own: Router) -> None:
    write_secrets(own.secrets_dir, {"keys": {"alice": "sk-alice-the-second"}})
    wait_until(lambda: status_of(own, "sk-alice-the-second") == 200, "the new key", deadline=RELOAD)
    assert status_of(own, KEYS["alice"]) == 401


def test_without_any_key_the_profile_is_unavailable(own: Router, simulator: Simulator) -> None:
    for tenant in KEYS:
        (own.secrets_dir / "keys" / tenant).unlink()
    own.reload()
    wait_until(lambda: status_of(own, KEYS["alice"]) == 503, "the last key's end")
    reply = own.post(asked(), bearer(KEYS["alice"]))
    assert (reply.status, reply.error["type"]) == (503, "service_unavailable_error")
    with pytest.raises(openai.InternalServerError):
        client(own, "sk-none").chat.completions.create(**asked())
    assert simulator.calls() == []


# -- where keys go -----------------------------------------------------------------------------------------------------


def test_keys_go_nowhere(router: StartRouter, profile: Profile, simulator: Simulator) -> None:
    upstream_key = "sk-upstream-5555555555555555"
    secrets = {"keys": KEYS, "upstream": {"token": upstream_key}}
    upstream: Json = {"name": "qwen", "model": QWEN, "apiKeySecretRef": {"name": "upstream", "key": "token"}}
    serving = router(
        profile(upstreams=[upstream, {"name": "other", "model": "other"}], auth=LOCKED),
        secrets=secrets,
        flags=["--access-log", "--log-level", "debug"],
    )
    for headers in (bearer(KEYS["alice"]), bearer("sk-wrong-7777777777777777"), {}):
        serving.post(asked(), headers)
        serving.post({**asked(), "model": "other"}, headers)
        serving.get("/v1/models?key=sk-in-query-9999", headers)
    seen = {call.model: call.headers for call in simulator.settled()}
    # the simulator's books keep a hash
    digest = sha256(upstream_key.encode()).hexdigest()[:12]
    assert seen[QWEN]["authorization"] == f"Bearer sha256:{digest}"
    assert "authorization" not in seen["other"]
    assert not {"cookie", "x-api-key", "x-moa-mode"} & set(seen["other"])
    shown = serving.log() + "".join(f"{sample}" for sample in serving.samples())
    for key in (*KEYS.values(), upstream_key, "sk-wrong-7777777777777777", "sk-in-query-9999"):
        assert key not in shown
        assert sha256(key.encode()).hexdigest()[:12] not in shown


def test_a_missing_secret_is_told_before_anything_listens(profile: Profile, router: StartRouter) -> None:
    with pytest.raises(AssertionError, match=r'spec\.auth\.secretRef: no Secret "keys" in'):
        router(profile(auth=LOCKED), secrets={"others": {"a": "sk-a-0000000000000000"}})
