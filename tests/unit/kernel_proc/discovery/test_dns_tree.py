"""Entries of signed lists, one at a time (EIP-1459)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel_proc.discovery.dns_tree import (
    Branch,
    Link,
    TreeError,
    TreeFormatError,
    TreeHashError,
    TreeRoot,
    TreeSignatureError,
    hash_of,
    parse_entry,
    parse_root,
    parse_url,
)
from kernel_proc.discovery.enr import Enr

# The example of EIP-1459, whose root is signed by this key (not by the one of the URL in its text).
KEY = bytes.fromhex("029f88229042fef9200246f49f94d9b77c4e954721442714e85850cb6d9e5daf2d")
ROOT = (
    "enrtree-root:v1 e=JWXYDBPXYWG6FX3GMDIBFA6CJ4 l=C7HRFPF3BLGF3YR4DY5KX3SMBE seq=1 "
    "sig=o908WmNp7LibOfPsr4btQwatZJ5URBr2ZAuxvK4UWHlsB9sUOTJQaGAlLPVAhM__XJesCHxLISo94z5Z2a463gA"
)
BRANCH = "enrtree-branch:2XS2367YHAXJFGLZHVAWLQD4ZY,H4FHT4B454P6UXFD7JCYQ5PWDY,MHTDO6TMUBRIA2XWG5LUDACK24"
LINK = "enrtree://AM5FCQLWIZX2QFPNJAP7VUERCCRNGRHWZG3YYHIUV7BVDQ5FDPRT2@morenodes.example.org"
RECORD = (
    "enr:-HW4QOFzoVLaFJnNhbgMoDXPnOvcdVuj7pDpqRvh6BRDO68aVi5ZcjB3vzQRZH2IcLBGHzo8uUN3snqmgTiE56CH3AMBgmlk"
    "gnY0iXNlY3AyNTZrMaECC2_24YYkYHEgdzxlSNKQEnHhuNAbNlMlWJxrJxbAFvA"
)
WAKU_ROOT = (
    "enrtree-root:v1 e=JORXBYVVM7AEKETX5DGXW44EAY l=FDXN3SN67NA5DKA4J2GOK7BVQI seq=1839 "
    "sig=Ma7yIqW2gj59dY8F6plfL7dfotaBPz285mu_XZK1e5VRzNrnf0pCAfacu4fBLuE7jMX-nDbqCM1sFiWWLq8WogE"
)
WAKU_URL = "enrtree://AKA3AM6LPBYEUDMVNU3BSVQJ5AD45Y7YPOHJLEF6W26QOE4VTUDPE@example.org"


def test_the_root_of_the_specification() -> None:
    url = parse_url("enrtree://AKPYQIUQIL7PSIACI32J7FGZW56E5FKHEFCCOFHILBIMW3M6LWXS2@nodes.example.org")
    assert url.public_key == KEY
    assert parse_root(ROOT, KEY) == TreeRoot("JWXYDBPXYWG6FX3GMDIBFA6CJ4", "C7HRFPF3BLGF3YR4DY5KX3SMBE", 1)
    assert str(url) == "enrtree://AKPYQIUQIL7PSIACI32J7FGZW56E5FKHEFCCOFHILBIMW3M6LWXS2@nodes.example.org"


def test_a_root_of_another_implementation() -> None:
    assert parse_root(WAKU_ROOT, parse_url(WAKU_URL).public_key).seq == 1839


@pytest.mark.parametrize(
    "text",
    [
        ROOT.replace("seq=1", "seq=2"),
        ROOT.replace("JWXY", "JWXZ"),
        ROOT.replace("sig=o908", "sig=o909"),
    ],
)
def test_a_root_that_was_changed(text: str) -> None:
    with pytest.raises(TreeSignatureError):
        parse_root(text, KEY)


def test_a_root_of_another_key() -> None:
    with pytest.raises(TreeSignatureError):
        parse_root(ROOT, parse_url(LINK).public_key)  # the pair that stands in the specification


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=spf1 -all",
        ROOT.replace("v1", "v2"),
        ROOT + "x" * 100,
        ROOT.replace("seq=1", "seq=-1"),
        ROOT.replace("seq=1", "seq=9999999999999999999"),
        ROOT[:-3],
        ROOT.replace(" l=C7HRFPF3BLGF3YR4DY5KX3SMBE", ""),
    ],
)
def test_no_root(text: str) -> None:
    with pytest.raises(TreeFormatError):
        parse_root(text, KEY)


def test_the_entries_of_the_specification() -> None:
    assert hash_of(BRANCH) == "JWXYDBPXYWG6FX3GMDIBFA6CJ4"
    branch = parse_entry(BRANCH, "JWXYDBPXYWG6FX3GMDIBFA6CJ4")
    assert isinstance(branch, Branch)
    assert len(branch.hashes) == 3
    link = parse_entry(LINK, "C7HRFPF3BLGF3YR4DY5KX3SMBE")
    assert isinstance(link, Link)
    assert str(link.url) == LINK
    record = parse_entry(RECORD, "2XS2367YHAXJFGLZHVAWLQD4ZY")
    assert isinstance(record, Enr)
    assert record.text == RECORD
    assert parse_entry("enrtree-branch:", hash_of("enrtree-branch:")) == Branch(())


def test_an_entry_under_another_name() -> None:
    with pytest.raises(TreeHashError):
        parse_entry(BRANCH, "C7HRFPF3BLGF3YR4DY5KX3SMBE")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "enrtree-branch:ABC",
        "enrtree-branch:,",
        "enrtree://x@y",
        "enr:-AA",
        "enrtree-branch:" + "A" * 1100,
    ],
)
def test_entries_that_are_none(text: str) -> None:
    with pytest.raises(TreeFormatError):
        parse_entry(text, hash_of(text))


@pytest.mark.parametrize(
    "text", ["", "enrtree://", LINK.replace("@", ""), LINK.split("@")[0] + "@host", LINK.lower(), LINK + "/x"]
)
def test_urls_that_are_none(text: str) -> None:
    with pytest.raises(TreeFormatError):
        parse_url(text)


@given(st.text(max_size=300))
def test_whatever_a_server_says(text: str) -> None:
    for parse in (
        lambda: parse_root(text, KEY),
        lambda: parse_entry(text, "A" * 26),
        lambda: parse_url(text),
    ):
        with pytest.raises(TreeError):
            parse()
