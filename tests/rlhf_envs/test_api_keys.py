"""Keys come from the environment, and one that no header can carry is in no message."""

from __future__ import annotations

import pytest

from rlhf_envs.api_keys import read_api_key


@pytest.mark.parametrize(("given", "key"), [("abc", "abc"), (" abc\r\n", "abc"), ("", None), (" ", None)])
def test_white_space_around_a_key_is_left_out(monkeypatch: pytest.MonkeyPatch, given: str, key: str | None) -> None:
    monkeypatch.setenv("TEST_API_KEY", given)
    assert read_api_key("TEST_API_KEY") == key
    monkeypatch.delenv("TEST_API_KEY")
    assert read_api_key("TEST_API_KEY") is None


@pytest.mark.parametrize("given", ["sec\nret", "sec ret", "sécret"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("TEST_API_KEY", given)
    with pytest.raises(ValueError, match="TEST_API_KEY has characters that no header carries") as raised:
        read_api_key("TEST_API_KEY")
    assert "ret" not in str(raised.value)
