from __future__ import annotations

import re
from hashlib import sha256

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from syncer.kube.types import Key
from syncer.naming import Names, shorten

# Pieces that bring names near the separator "-x-" and near the length limits.
PIECES = st.sampled_from(["a", "b", "x", "-", "-x", "x-", "-x-", "x-x", "0", "abcdef", "0123456789", "n" * 20, "n" * 45])
LABELS = st.lists(PIECES, min_size=1, max_size=7).map(lambda parts: "".join(parts).strip("-")[:63].strip("-")).filter(bool)
SUBDOMAINS = st.lists(LABELS, min_size=1, max_size=4).map(".".join).map(lambda name: name[:253].strip("-."))
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


@pytest.mark.parametrize(
    ("namespace", "name", "suffix", "host"),
    [
        ("default", "web", "vc", "web-x-default-x-vc"),
        ("default", "kube-root-ca.crt", "vc", "kube-root-ca.crt-x-default-x-vc"),
        ("team-a", "web-0", "my-vcluster", "web-0-x-team-a-x-my-vcluster"),
        ("x", "x", "v", "x-x-x-x-v-" + sha256(b"x/x/v").hexdigest()[:10]),  # reads as "-x-" three times
        ("b-x-c", "a", "v", "a-x-b-x-c-x-v-" + sha256(b"a/b-x-c/v").hexdigest()[:10]),
        ("c", "a-x-b", "v", "a-x-b-x-c-x-v-" + sha256(b"a-x-b/c/v").hexdigest()[:10]),
        ("n" * 54, "a", "v", "a-x-" + "n" * 54 + "-x-v"),  # 62 characters
        ("n" * 55, "a", "v", "a-x-" + "n" * 55 + "-x-v"),  # 63 characters
        ("n" * 56, "a", "v", "a-x-" + "n" * 48 + "-" + sha256(f"a-x-{'n' * 56}-x-v".encode()).hexdigest()[:10]),
        # the cut falls behind a dot, which must not stand before a dash
        ("n", "a" * 51 + ".b" * 9, "v", "a" * 51 + "-" + sha256(f"{'a' * 51}{'.b' * 9}-x-n-x-v".encode()).hexdigest()[:10]),
    ],
)
def test_host_name(namespace: str, name: str, suffix: str, host: str) -> None:
    names = Names(suffix, "host")
    assert names.host_name(namespace, name) == host
    assert names.host_key(Key(namespace, name)) == Key("host", host)


def test_a_readable_name_never_has_the_shape_of_a_cut_one() -> None:
    name, namespace, suffix = "n" * 40, "abcd", "vc-0123456789"
    full = f"{name}-x-{namespace}-x-{suffix}"
    assert len(full) == 63
    assert Names(suffix, "host").host_name(namespace, name) == f"{full[:52]}-{sha256(full.encode()).hexdigest()[:10]}"


@given(first=st.tuples(SUBDOMAINS, LABELS, LABELS), second=st.tuples(SUBDOMAINS, LABELS, LABELS))
@example(first=("a", "b-x-c", "v"), second=("a-x-b", "c", "v"))
@example(first=("a", "b", "c-x-d"), second=("a-x-b", "c", "d"))
@example(first=("a-x", "x", "v"), second=("a", "x-x", "v"))
@example(first=("x", "x", "x"), second=("x-x", "x", "x"))
def test_injective(first: tuple[str, str, str], second: tuple[str, str, str]) -> None:
    assume(first != second)
    (name_a, namespace_a, suffix_a), (name_b, namespace_b, suffix_b) = first, second
    assert Names(suffix_a, "h").host_name(namespace_a, name_a) != Names(suffix_b, "h").host_name(namespace_b, name_b)


@given(parts=st.lists(st.sampled_from(["a", "b", "x"]), min_size=3, max_size=9))
def test_injective_over_every_way_to_split_one_string(parts: list[str]) -> None:
    """All (name, namespace, suffix) whose readable forms are one and the same string."""
    text = "-x-".join(parts)
    cuts = [match.start() for match in re.finditer("(?=-x-)", text)]
    triples = {(text[:i], text[i + 3 : j], text[j + 3 :]) for i in cuts for j in cuts if i + 3 < j and i and j + 3 < len(text)}
    assert len({Names(suffix, "h").host_name(namespace, name) for name, namespace, suffix in triples}) == len(triples)


@given(name=SUBDOMAINS, namespace=LABELS, suffix=LABELS)
def test_valid_short_and_stable(name: str, namespace: str, suffix: str) -> None:
    assume(SUBDOMAIN.match(name))
    names = Names(suffix, "host")
    host = names.host_name(namespace, name)
    assert len(host) <= 63
    assert SUBDOMAIN.match(host)
    if "." not in name:
        assert "." not in host
    assert host == Names(suffix, "elsewhere").host_name(namespace, name)


@given(
    name=st.from_regex(r"[a-z]([a-w0-9]{0,10}(-[a-w0-9]{1,5})?)?", fullmatch=True),
    namespace=st.from_regex(r"[a-z][a-w0-9]{1,10}", fullmatch=True),
    suffix=st.from_regex(r"[a-z][a-w0-9]{1,10}", fullmatch=True),
)
def test_ordinary_names_have_the_classic_form(name: str, namespace: str, suffix: str) -> None:
    assert Names(suffix, "host").host_name(namespace, name) == f"{name}-x-{namespace}-x-{suffix}"


def test_cluster_name() -> None:
    names = Names("vc", "host")
    assert names.cluster_name("fast") == "vcluster-fast-x-host-x-vc"
    assert names.cluster_name("a-x-b") != Names("vc", "b-x-host").cluster_name("a")
    assert names.cluster_name("n" * 80) == shorten(f"vcluster-{'n' * 80}-x-host-x-vc")
    assert len(names.cluster_name("n" * 80)) == 63
