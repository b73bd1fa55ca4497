from __future__ import annotations

import pytest
from multidict import CIMultiDict

from syncer.errors import Unauthorized
from syncer.proxy.callers import Identity, caller_of, identity_of

JANE = Identity("jane", ("devs", "ops"), "X509SHA256=1", 1000.0)
SUBJECT = ((("organizationName", "devs"),), (("organizationName", "ops"),), (("commonName", "jane"),))
END = "Jan  1 00:00:00 2030 GMT"


def test_a_certificate_names_a_user_and_groups() -> None:
    found = identity_of({"subject": SUBJECT, "notAfter": END}, b"DER")
    assert found is not None
    assert (found.user, found.groups, found.expires) == ("jane", ("devs", "ops"), 1893456000.0)
    assert found.credential_id.startswith("X509SHA256=")


def test_of_several_common_names_the_last_counts_as_in_go() -> None:
    """crypto/x509 has each overwrite the one before, so whoever approved the certificate saw the last."""
    found = identity_of({"subject": ((("commonName", "admin"),), (("commonName", "jane"),)), "notAfter": END}, b"")
    assert found is not None
    assert found.user == "jane"


def test_a_certificate_without_a_name_is_nobodys() -> None:
    assert identity_of({"subject": ((("organizationName", "system:masters"),),), "notAfter": END}, b"") is None


def test_who_he_is() -> None:
    caller = caller_of(CIMultiDict({"Authorization": "Bearer x", "Impersonate-User": "joe", "X-Remote-User": "root"}), JANE, 999.0)
    assert caller.asserted
    assert [*caller.credentials.items()] == [
        ("Impersonate-User", "joe"),
        ("X-Remote-User", "jane"),
        ("X-Remote-Group", "devs"),
        ("X-Remote-Group", "ops"),
        ("X-Remote-Extra-Authentication.kubernetes.io%2Fcredential-Id", "X509SHA256=1"),
    ]


@pytest.mark.parametrize(
    "user", ["admin\nX-Remote-Group: system:masters", "admin\r", "ad\0min", " admin", "admin ", "\u00a0admin", "ad\ud800min"]
)
def test_a_subject_that_no_header_can_tell_is_refused(user: str) -> None:
    """White space around a value is none of it, so a header would make another user or group of it: ` system:masters`, say."""
    for identity in (Identity(user, (), "", 1000.0), Identity("jane", ("devs", user), "", 1000.0)):
        with pytest.raises(Unauthorized, match="cannot be passed on"):
            caller_of(CIMultiDict(), identity, 0.0)


def test_a_certificate_ends_on_an_open_connection_too() -> None:
    with pytest.raises(Unauthorized, match="expired"):
        caller_of(CIMultiDict(), JANE, 1000.0)
