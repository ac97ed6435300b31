raise SystemExit("pyproject.toml says it all: this file is there for old tools")
