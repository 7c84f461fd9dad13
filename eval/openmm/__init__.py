"""The only bridge to the OpenMMLab libraries (mmengine, mmcv, mmdet, mmsegmentation): models and transforms, no runner.

They are an extra, `dense`, because they are heavy and seldom updated; what is broken or missing there is said in one
sentence, and everything else works without. Their modules are imported after `require()`, never before.
"""

import importlib
import importlib.util
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

_EXTRA = "dense"
_MODULES = ("mmengine", "mmcv", "mmdet", "mmseg", "pycocotools", "ftfy", "regex")
# In this order: the stand-in for mmcv's compiled operations must be there before what looks them up.
_IMPORTED = ("mmseg.models", "mmseg.datasets", "mmdet.models", "mmdet.datasets")
_ADVICE = f"Install the extra {_EXTRA} (pip install -e '.[{_EXTRA}]'), in the versions of requirements.lock."

_lock, _filters, _n_inside = threading.Lock(), ExitStack(), 0


class Unavailable(ValueError):
    """The OpenMMLab libraries cannot be used here; says why and what to install."""


def installed() -> None:
    """Nothing, in no time: the libraries are there, as far as can be told without importing them.

    Raises:
        Unavailable: naming what is missing.
    """
    absent = [name for name in _MODULES if not importlib.util.find_spec(name)]
    if absent:
        raise Unavailable(
            f"dense prediction needs OpenMMLab's libraries, but there is no {', '.join(absent)}. {_ADVICE}"
        )


def require() -> None:
    """Import the libraries, quietly, with the stand-in for mmcv's compiled operations where they are not compiled.

    Raises:
        Unavailable: if that fails in any way.
    """
    installed()
    try:
        with quiet():
            from eval.openmm import ops

            ops.install()
            for name in _IMPORTED:
                importlib.import_module(name)
    # Their version checks are asserts, a library built for another torch is an OSError, and so on.
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise Unavailable(f"OpenMMLab's libraries are installed but do not work ({said}). {_ADVICE}") from error


@contextmanager
def quiet() -> Generator[None]:
    """A time without the libraries' warnings about their own age; before and after, all is as it was.

    Threads may overlap in it: Python's filters are the process's own, so the last to leave restores them.
    """
    global _n_inside
    with _lock:
        if not _n_inside:
            _filters.enter_context(warnings.catch_warnings())
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning):
                warnings.simplefilter("ignore", category)
        _n_inside += 1
    try:
        yield
    finally:
        with _lock:
            _n_inside -= 1
            if not _n_inside:
                _filters.close()
