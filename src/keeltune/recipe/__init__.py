"""The recipe: its fields, how it is read from YAML, and what no field shows alone."""

from keeltune.recipe.fields import Recipe as Recipe
from keeltune.recipe.fields import json_schema as json_schema
from keeltune.recipe.loading import from_dict as from_dict
from keeltune.recipe.loading import load as load
from keeltune.recipe.loading import opened as opened
from keeltune.recipe.loading import parse as parse
