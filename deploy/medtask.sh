#!/bin/sh
# Starts, stops and tests the services of compose.yaml.
#   deploy/medtask.sh up      build and start; prints the link for the first account
#   deploy/medtask.sh down    stop; data, database and models are kept
#   deploy/medtask.sh test    ask the server; with MEDTASK_KEY also with an API key
# MEDTASK_COMPOSE: the command, default "docker compose"; for example "podman compose".
set -eu
cd "$(dirname "$0")"
compose=${MEDTASK_COMPOSE:-docker compose}

write_password() {
  [ -f .env ] && grep -q '^MEDTASK_DB_PASSWORD=' .env && return
  (umask 077
   password=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
   printf 'MEDTASK_DB_PASSWORD=%s\n' "$password" >> .env)
}

read_port() {
  port=${MEDTASK_PORT:-}
  [ -n "$port" ] || { [ -f .env ] && port=$(sed -n 's/^MEDTASK_PORT=//p' .env); } || true
  echo "${port:-8000}"
}

case "${1:-}" in
  up)
    write_password
    mkdir -p models
    $compose up --detach --build --wait web worker db ollama
    $compose up --no-deps model
    $compose logs --no-log-prefix web | grep '/start/' | tail -1 \
      | sed "s|http://[^/]*|http://localhost:$(read_port)|" || true
    echo "medtask serves http://localhost:$(read_port)"
    ;;
  down)
    $compose down
    ;;
  test)
    url=http://localhost:$(read_port)
    curl --fail --silent --show-error "$url/health"
    echo
    if [ -n "${MEDTASK_KEY:-}" ]; then
      # The key is read from standard input, so that no list of processes shows it.
      printf 'header = "Authorization: Bearer %s"\n' "$MEDTASK_KEY" \
        | curl --fail --silent --show-error --config - "$url/api/me"
      echo
    else
      status=$(curl --silent --output /dev/null --write-out '%{http_code}' "$url/api/me")
      [ "$status" = 401 ] || { echo "expected 401 without a key, got $status" >&2; exit 1; }
    fi
    echo ok
    ;;
  *)
    sed -n '2,6s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
