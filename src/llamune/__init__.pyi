from llamune.errors import LlamuneError as LlamuneError
from llamune.errors import UnsupportedError as UnsupportedError
from llamune.jobs import merge as merge
from llamune.jobs import resume as resume
from llamune.jobs import tune as tune
from llamune.nn import load as load
from llamune.runs import Recipe as Recipe
from llamune.runs import Run as Run

__version__: str
