"""What a user may write down about a run: the schema, its defaults, and reading it with all problems at once."""

from erase.config.load import load_config, parse_value, to_yaml
from erase.config.schema import METHOD_DEFAULTS, WORLD, WORLD_DEFAULTS, Config
from erase.config.unused import unused_settings

__all__ = [
    "METHOD_DEFAULTS",
    "WORLD",
    "WORLD_DEFAULTS",
    "Config",
    "load_config",
    "parse_value",
    "to_yaml",
    "unused_settings",
]
