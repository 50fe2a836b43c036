"""The static files in production: collected once, compressed, and named by their content.

`manage.py collectstatic` copies them into one folder, with a hash in each name and a compressed
copy beside each file, so that a browser keeps a file for ever and asks again only for a changed
one. Without that folder the files are served as they are, as in DEBUG and under `make run`.
"""

from __future__ import annotations

from pathlib import Path

from django.contrib.staticfiles.finders import get_finders
from whitenoise.storage import CompressedManifestStaticFilesStorage

COLLECT = "python manage.py collectstatic --clear --noinput"
MISSING = f"the static files are not collected; collect them with: {COLLECT}"
OUTDATED = f"the collected static files are of another version; collect them again with: {COLLECT}"

# Django's own pattern (`support_js_module_import_aggregation`) also finds the types in comments,
# `import("../x.js")`, whose paths lead elsewhere.
_IMPORT = (
    r"(?m)^(?P<matched>(?P<names>import [^\"'\n]{1,500} from )"
    r"\"(?P<url>\.{1,2}/[^\"\n]{1,200})\";)$"
)
_LATER_IMPORT = r"(?P<matched>await import\(\"(?P<url>\./[^\"]+)\"\))"


class NotCollected(Exception):
    """The static files cannot be used; the text says what to do."""


class StaticFilesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]  # no types
    """WhiteNoise's storage, which also renames what modules import from each other.

    Otherwise a module would import another one by its plain name, which browsers keep for a minute
    only, and a page would load `client.js` twice: by both of its names.
    """

    support_js_module_import_aggregation = True  # the template tags of `realtime` ask for it
    _js_module_import_aggregation_patterns = (
        "*.js",
        ((_IMPORT, '%(names)s"%(url)s";'), (_LATER_IMPORT, 'await import("%(url)s")')),
    )
    # Each pass follows one import; a page's module imports one that imports one, and so on.
    max_post_process_passes = 12

    def stored_name(self, name: str) -> str:
        """Return the name with the hash, or the plain one if nothing has been collected."""
        return str(super().stored_name(name)) if self.hashed_files else name


def check_collected(root: Path) -> None:
    """Check that the collected files are those of this version.

    Args:
        root: The folder of the collected files.

    Raises:
        NotCollected: There are none, or others.
    """
    try:
        finished = (root / StaticFilesStorage.manifest_name).stat().st_mtime
    except OSError:
        raise NotCollected(MISSING) from None
    seen: set[Path] = set()
    for finder in get_finders():
        for name, storage in finder.list([]):
            copy = root / (getattr(storage, "prefix", None) or "") / name
            if copy in seen:  # an app further up has a file of this name, which was collected
                continue
            seen.add(copy)
            try:
                # A copy that is newer than the manifest is of a collection that was interrupted.
                is_same = copy.stat().st_mtime <= finished and copy.read_bytes() == (
                    Path(storage.path(name)).read_bytes()
                )
            except OSError:
                is_same = False
            if not is_same:
                raise NotCollected(OUTDATED)
