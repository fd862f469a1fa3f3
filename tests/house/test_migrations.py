"""`migrations.HEAD` decides whether a database is usable, so it must be the newest revision."""

import importlib

from tests.house.sources import ROOT
from tidemill import migrations

FILES = sorted(path.stem for path in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def test_head_is_the_newest_revision() -> None:
    assert FILES[-1].partition("_")[0] == migrations.HEAD


def test_revisions_are_one_chain_numbered_like_their_files() -> None:
    before = None
    for stem in FILES:
        revision = importlib.import_module(f"tidemill.migrations.versions.{stem}")
        assert revision.revision == stem.partition("_")[0]
        assert revision.down_revision == before
        before = revision.revision
