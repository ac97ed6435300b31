#!/usr/bin/env bash
# Prepare this machine for caliban: a virtual environment, a Docker engine and a base image.
#
#   scripts/prepare.sh STEP...
#
#   venv          the virtual environment .venv, with caliban installed in place
#   dev, docs     the same, and what the checks or the documentation need besides
#   programs      what some tests use: a browser (chromium), a terminal (tmux), networks (iproute2),
#                 a registry of images (docker-registry)
#   mlflow        a tracking server of MLflow for some tests, in an environment of its own, .mlflow
#   engine        a Docker engine that answers, and a base image in it; writes .engine.env
#   base-image    the base image from Debian packages alone, whether a registry can be reached or not
#   stop-engine   stop the engine, if this script started it by hand
#   clean-images  remove the base image, if this script built it
#
# A step says what it is about to install or start, does nothing when there is nothing to do, and can
# be repeated. PYTHON names the interpreter for a new .venv. CALIBAN_NO_INSTALL=1 leaves the system
# as it is and only says what is missing. (The bash of macOS is 3.2: nothing newer is used here.)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:/usr/sbin:/sbin" # where dockerd lives, for users who are not root

readonly default_image=python:3.12-slim-bookworm # caliban's own default
readonly local_image=caliban-base:debian12
readonly default_endpoint=unix:///var/run/docker.sock
readonly pid_file=/run/caliban/dockerd.pid # gone after a reboot, as the engine is
readonly engine_log=/var/log/caliban-dockerd.log
readonly certificates=/usr/local/share/ca-certificates # those that somebody added

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say() { printf 'prepare: %s\n' "$*" >&2; }
die() { say "$@" && exit 1; }
has() { command -v "$1" >/dev/null; }
as_root() { if ((EUID)); then sudo -n "$@"; else "$@"; fi; }
# Run a command whose output is worth reading only when it fails.
quietly() { "$@" >"$scratch/output" 2>&1 || { tail -n 30 "$scratch/output" >&2 && return 1; }; }

# need_root WHAT-IS-WRONG ADVICE: stop with both unless the system may be changed.
need_root() {
  [[ ${CALIBAN_NO_INSTALL:-0} == 0 ]] || die "$1; CALIBAN_NO_INSTALL forbids mending that. $2"
  ((EUID == 0)) || sudo -n true 2>/dev/null ||
    die "$1; mending that takes root, or sudo without a password. $2"
}

# apt_install WHAT-IS-WRONG ADVICE PACKAGE...: a package that ends in ? may be unknown.
apt_install() {
  local package packages=()
  has apt-get || die "$1, and this script can only install with apt-get (Debian, Ubuntu). $2"
  need_root "$1" "$2"
  quietly as_root apt-get update || say "Some package lists are out of date; going on with those."
  for package in "${@:3}"; do
    [[ $package != *\? ]] || apt-cache show "${package%\?}" >/dev/null 2>&1 || continue
    packages+=("${package%\?}")
  done
  say "$1: installing ${packages[*]} with apt-get."
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes \
    --no-install-recommends -o DPkg::Lock::Timeout=120 "${packages[@]}" || die "That failed. $2"
  hash -r
}

# ---- The virtual environment ----

find_python() {
  local name
  for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    echo "$name" && return
  done
  die "No Python 3.11 or newer found (tried: ${PYTHON:-python3, python3.14 down to python3.11})." \
    "Install one, or name it: make PYTHON=/path/to/python3 ..."
}

# pip_install WHAT FILES ARGUMENT...: unless FILES are what they were when that last succeeded.
pip_install() {
  local stamp=".venv/.has-${1// /-}"
  # shellcheck disable=SC2086 # FILES is a list
  cat $2 >"$scratch/stamp"
  cmp -s "$scratch/stamp" "$stamp" && return
  say "Installing $1 into .venv with pip."
  quietly .venv/bin/python -m pip install "${@:3}" || die "pip could not install $1."
  cp "$scratch/stamp" "$stamp"
}

step_venv() {
  local python advice="Install its venv module, or name another: make PYTHON=/path/to/python3 ..."
  if [[ ! -x .venv/bin/python || ! -x .venv/bin/pip ]]; then
    python=$(find_python)
    # Debian ships the module that puts pip into a virtual environment in a package of its own.
    "$python" -c 'import ensurepip' 2>/dev/null ||
      apt_install "$python cannot make a virtual environment" "$advice" python3-venv
    say "Creating the virtual environment .venv with $("$python" --version)."
    quietly "$python" -m venv --clear .venv || die "That failed. $advice"
  fi
  pip_install caliban "pyproject.toml requirements.txt" --editable .
}

step_dev() { step_venv; pip_install "development tools" requirements-dev.txt -r requirements-dev.txt; }
step_docs() { step_venv; pip_install "documentation tools" docs/requirements.txt -r docs/requirements.txt; }

# ---- The programs that tests use ----

step_programs() {
  has chromium || has chromium-browser || has google-chrome || try_install chromium
  has tmux || try_install tmux
  has ip || [ -x /sbin/ip ] || try_install iproute2
  has docker-registry || try_install docker-registry
}

# Without it, the tests that use it are skipped: whoever can't have it here can run the others.
try_install() {
  (apt_install "There is no $1" "Or do without the tests that use it." "$1") ||
    say "Going on without $1: the tests that use it will be skipped."
  hash -r
}

# It has many requirements, which must not decide what caliban is tested with.
step_mlflow() {
  local python
  [[ -x .mlflow/bin/mlflow ]] && return
  python=$(find_python)
  say "Installing MLflow into .mlflow with pip; this takes a minute."
  { quietly "$python" -m venv --clear .mlflow &&
    quietly .mlflow/bin/python -m pip install 'mlflow>=3' 'psycopg[binary]'; } || {
    rm -rf .mlflow
    say "Going on without MLflow: the tests that use it will be skipped."
  }
}

# ---- The engine ----

# The server's version, or the reason why there is none.
ask_engine() { docker version --format '{{.Server.Version}}' 2>&1; }

# Where the docker command looks for its engine. Only that command knows of contexts, not the SDK.
endpoint() {
  local found
  found=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null) ||
    found=${DOCKER_CONTEXT:+the context $DOCKER_CONTEXT}
  echo "${DOCKER_HOST:-${found:-$default_endpoint}}"
}

ensure_engine() {
  local answer
  if ! answer=$(ask_engine) && [[ $answer != *"permission denied"* ]]; then
    bring_up_engine
  fi
  answer=$(ask_engine) || die "A Docker engine runs, but this user may not use it. Join the docker" \
    "group (sudo usermod -aG docker ${USER:-YOU}), log in again, and repeat this."
}

bring_up_engine() {
  local answer deadline advice="Install Docker Engine"
  [[ $(endpoint) == "$default_endpoint" ]] || die "No Docker engine answers at $(endpoint)." \
    "Start it, or unset DOCKER_HOST, or choose another docker context."
  [[ $(uname) != Darwin ]] || advice="Install Docker Desktop"
  advice+=", or start it if it is there: https://docs.docker.com/get-started/get-docker/"
  { has docker && has dockerd; } || apt_install "There is no Docker engine" "$advice" \
    docker.io iptables 'docker-cli?' 'docker-buildx?' # the last two: in releases after Debian 12
  ask_engine >/dev/null || start_engine "$advice" # installing it may have started it
  deadline=$((SECONDS + 60))
  until answer=$(ask_engine) || [[ $answer == *"permission denied"* ]]; do
    if ((SECONDS > deadline)) || grep -qs '^failed to start' "$engine_log"; then
      [[ ! -e $engine_log ]] || tail -n 5 "$engine_log" >&2
      die "The Docker engine did not start."
    fi
    sleep 0.2
  done
}

start_engine() {
  need_root "The Docker engine is not running" "$1"
  if [[ -d /run/systemd/system ]]; then
    say "Starting the Docker engine with systemctl."
    as_root systemctl start docker || die "That failed."
    return
  fi
  say "Starting the Docker engine (dockerd); it logs to $engine_log."
  # In a session and with files of its own: whoever reads our output to its end (a CI job, a pipe)
  # must not wait for the engine, and ^C must not reach it.
  # shellcheck disable=SC2016 # the inner shell expands this
  as_root bash -c 'mkdir -p "${1%/*}" && cd /
    for fd in /proc/self/fd/*; do ((${fd##*/} < 3)) || eval "exec ${fd##*/}>&-"; done
    exec setsid --fork dockerd --pidfile "$1" </dev/null >"$2" 2>&1' - "$pid_file" "$engine_log"
}

step_stop-engine() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || true
  if [[ $(cat "/proc/$pid/comm" 2>/dev/null) != dockerd ]]; then
    say "No engine runs that was started from here."
    return
  fi
  need_root "The engine, process $pid, belongs to root" ""
  say "Stopping the Docker engine, process $pid."
  as_root kill "$pid"
  while [[ -d /proc/$pid ]]; do sleep 0.1; done
}

# ---- The base image ----

# An unreachable registry costs 20 s at most; a pull that has printed its first line may take longer.
pull() {
  say "Pulling the base image $1."
  docker pull "$1" >"$scratch/pull" 2>&1 &
  local limit=20 start=$SECONDS
  while kill -0 $! 2>/dev/null; do
    [[ ! -s $scratch/pull ]] || limit=900
    ((SECONDS - start < limit)) || kill $!
    sleep 0.1
  done
  wait $! || { say "No luck: $(tail -n 1 "$scratch/pull" | grep . || echo no answer)" && return 1; }
}

# build RECIPE: the base image from Debian packages alone.
build() {
  local path bundle=/etc/ssl/certs/ca-certificates.crt
  local what="A base image has to be built" advice="Or name one: CALIBAN_BASE_IMAGE=NAME make ..."
  # shellcheck disable=SC2016 # mmdebstrap sets the $1 of its hooks
  local options=(--variant=apt --include="python3,python3-venv,ca-certificates,git"
    '--customize-hook=rm -r "$1"/usr/share/man/* "$1"/usr/share/locale/*')
  need_root "$what" "$advice"
  has mmdebstrap || apt_install "$what" "$advice" mmdebstrap debian-archive-keyring
  say "Building the base image $local_image from Debian packages; this takes about a minute."
  if [[ -n $(find "$certificates" -name '*.crt' 2>/dev/null) ]]; then
    say "It will trust the certificate authorities that were added to this machine: $certificates"
    # shellcheck disable=SC2016
    options+=("--customize-hook=copy-in $certificates ${certificates%/*}"
      '--customize-hook=chroot "$1" update-ca-certificates')
  fi
  options+=(bookworm "$scratch/base.tar")
  for path in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list; do
    # Of the same release: the mirror that it names is one that works here.
    ! grep -qs '^[^#].*bookworm' "$path" || { options+=("$path") && break; }
  done
  quietly as_root mmdebstrap "${options[@]}" || die "mmdebstrap failed."
  # pip and requests bring certificates of their own: the variables point them at the system's.
  docker import --change "LABEL caliban.setup=$1" \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change "ENV SSL_CERT_FILE=$bundle PIP_CERT=$bundle REQUESTS_CA_BUNDLE=$bundle" \
    "$scratch/base.tar" "$local_image" >/dev/null
}

# The label of the local base image; empty if there is no such image, or it is somebody else's.
built_from() {
  local format='{{index .Config.Labels "caliban.setup"}}'
  docker image inspect --format "$format" "$local_image" 2>/dev/null || true
}

# What the local base image depends on: it is built again when its recipe or the machine's
# certificates have changed.
recipe() {
  { declare -f build && cat "$certificates"/* 2>/dev/null; } | cksum | tr ' ' - || true
}

step_base-image() {
  local recipe
  ensure_engine
  recipe=$(recipe)
  [[ $(built_from) == "$recipe" ]] || build "$recipe"
  say "The base image $local_image is ready."
}

# Sets base_image. One that the caller named is the caller's affair.
ensure_base_image() {
  local recipe
  base_image=${CALIBAN_BASE_IMAGE:-$default_image}
  [[ -z ${CALIBAN_BASE_IMAGE:-} ]] || return 0
  docker image inspect "$default_image" >/dev/null 2>&1 && return
  recipe=$(recipe)
  if [[ $(built_from) != "$recipe" ]]; then
    pull "$default_image" && return
    build "$recipe"
  fi
  base_image=$local_image
}

step_engine() {
  ensure_engine
  ensure_base_image
  {
    [[ $(endpoint) == "$default_endpoint" ]] || echo "export DOCKER_HOST=$(endpoint)"
    [[ $base_image == "$default_image" ]] || echo "export CALIBAN_BASE_IMAGE=$base_image"
  } >.engine.env
  say "The Docker engine and its base image $base_image are ready."
}

step_clean-images() {
  [[ -n $(built_from) ]] || return 0
  say "Removing the base image $local_image."
  quietly docker image rm "$local_image" || say "It is in use, so it stays."
}

(($#)) || set -- help
for step; do
  case $step in
    venv | dev | docs | programs | mlflow | engine | base-image | stop-engine | clean-images) "step_$step" ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 2 ;;
  esac
done
