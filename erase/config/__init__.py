"""What a user may write down about a run: the schema, its defaults, and reading it with all problems at once."""

from erase.config.complete import WORLD, is_world
from erase.config.defaults import BASELINES, EDITORS, METHOD_DEFAULTS, UNTRAINED, WORLD_DEFAULTS
from erase.config.load import first_model, load_config, make_config, parse_value, read_settings, run_folders, to_yaml
from erase.config.schema import Config
from erase.config.unused import unused_settings

# Settings that hold a path of this machine, or may hold one among their options. A front end that serves others must
# not let them be named freely.
FILE_FIELDS = ("model", "output", "evaluate.files", "evaluate.judges", "evaluate.inception", "method.source")

__all__ = [
    "BASELINES",
    "EDITORS",
    "FILE_FIELDS",
    "METHOD_DEFAULTS",
    "UNTRAINED",
    "WORLD",
    "WORLD_DEFAULTS",
    "Config",
    "first_model",
    "is_world",
    "load_config",
    "make_config",
    "parse_value",
    "read_settings",
    "run_folders",
    "to_yaml",
    "unused_settings",
]
