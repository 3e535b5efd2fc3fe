#!/usr/bin/env bash
# The first hour of a platform engineer, by commands: install, look, compact, watch, lose the state and get it back.
# Everything is made in a new directory, on made-up data, and removed at the end. CI runs it.
#
#     deploy/first_hour.sh              # installs into a new virtual environment
#     deploy/first_hour.sh .venv        # with one that is there
set -euo pipefail
set -m
source="$(cd "$(dirname "$0")/.." && pwd)"
venv="${1:-}"
venv="${venv:+$(cd "$venv" && pwd)}"
hour="$(mktemp -d)"
started=()
finish() {  # what was started is ended with all that it started itself: each is a group of its own (set -m)
  for pid in "${started[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
  [ ${#started[@]} -eq 0 ] || sleep 3
  for pid in "${started[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
  rm -rf "$hour"
}
trap finish EXIT
cd "$hour"
step() { printf '\n== %s  (after %s s)\n' "$*" "$SECONDS"; }
expect() {  # expect EXIT-CODE COMMAND…
  local code=0
  "${@:2}" || code=$?
  [ "$code" = "$1" ] || { echo "ended with $code instead of $1: ${*:2}" >&2; exit 1; }
}
until_well() {  # until_well COMMAND…: within three minutes
  for _ in $(seq 180); do "$@" >/dev/null 2>&1 && return; sleep 1; done
  echo "never well: $*" >&2
  exit 1
}
free_port() { python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

step "install, in the versions that are tested"
if [ -z "$venv" ]; then
  python3 -m venv venv
  venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint "$source/constraints.txt" "$source"
  venv="$hour/venv"
fi
PATH="$venv/bin:$PATH"
quantlab --version

step "lakes, as collectors and the sink would fill them"
day="$(date -u -d '-1 day -2 hours -31 minutes' +%F)"  # the last one that may be compacted
export QUANTLAB_RAW_URL="$hour/raw" QUANTLAB_COMPACT_URL="$hour/compact" WAREHOUSE_URL="$hour/warehouse/events"
export QUANTLAB_EXCHANGES=binance QUANTLAB_STREAMS=bbo,trade QUANTLAB_SCRATCH_DIR="$hour"
export QUANTLAB_METRICS_FILE="$hour/quantlab.prom" DAGSTER_HOME="$hour/home"
mkdir -p "$QUANTLAB_RAW_URL" "$WAREHOUSE_URL" "$DAGSTER_HOME"
python - "$day" <<'END'
import datetime as dt, os, pathlib, sys
from quantlab_dagster.synthetic.market import DaySpec, write_local_day
from quantlab_dagster.synthetic.warehouse import HourSpec, write_local_hour

day = dt.date.fromisoformat(sys.argv[1])
for stream in ("bbo", "trade"):
    for symbol in ("adausdt", "btcusdt"):
        write_local_day(pathlib.Path(os.environ["QUANTLAB_RAW_URL"]), DaySpec("binance", stream, symbol, day, parts=30, rows=3000))
hour = dt.datetime.combine(day, dt.time(10), dt.UTC)
write_local_hour(pathlib.Path(os.environ["WAREHOUSE_URL"]), HourSpec("demo", hour, files=20, rows=2000))
END
cp "$source/dagster.yaml" "$DAGSTER_HOME/dagster.yaml"

step "look before anything is written"
quantlab plan --date "$day"
quantlab cost --date "$day"
quantlab warehouse plan
expect 1 quantlab status
test ! -e "$QUANTLAB_COMPACT_URL/compacted/_state.json"

step "one day, one hour, proved"
quantlab state seed --last-compacted "$(date -u -d "$day -1 day" +%F)"  # else the lake begins with yesterday
quantlab compact --date "$day"
quantlab verify --date "$day"
quantlab warehouse compact
expect 0 quantlab status

step "the database's tables are those of this version"
dagster instance migrate

step "code server, web server, daemon, metrics"
code="$(free_port)" web="$(free_port)" metrics="$(free_port)"
printf 'load_from:\n  - grpc_server: {host: 127.0.0.1, port: %s, location_name: quantlab}\n' "$code" > workspace.yaml
dagster code-server start --host 127.0.0.1 --port "$code" --module-name quantlab_dagster.definitions --location-name quantlab >code.log 2>&1 &
started+=($!)
until_well dagster api grpc-health-check --port "$code"
dagster-webserver --host 127.0.0.1 --port "$web" --workspace workspace.yaml >web.log 2>&1 &
started+=($!)
dagster-daemon run --workspace workspace.yaml >daemon.log 2>&1 &
started+=($!)
quantlab metrics serve --port "$metrics" >metrics.log 2>&1 &
started+=($!)
get() { python -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode())' "http://127.0.0.1:$1"; }
until_well get "$web/server_info"
until_well dagster-daemon liveness-check
fine() { get "$metrics/metrics" | grep -c '^quantlab_lake_fine{.*} 1.0$' | grep -qx 2; }
until_well fine
get "$metrics/metrics" | grep '^quantlab_compaction_runs_total'

step "the state is lost, and found again in the lake"
before="$(quantlab state show | grep last_compacted_date)"
rm "$QUANTLAB_COMPACT_URL/compacted/_state.json"
expect 1 quantlab status
quantlab state rebuild
[ "$(quantlab state show | grep last_compacted_date)" = "$before" ]
expect 0 quantlab status

step "a day that came damaged is refused, said, and mended"
python - "$day" <<'END'
import datetime as dt, os, pathlib, sys
from quantlab_dagster.synthetic.market import DaySpec, write_local_day

spec = DaySpec("binance", "bbo", "ethusdt", dt.date.fromisoformat(sys.argv[1]), parts=5, rows=500)
write_local_day(pathlib.Path(os.environ["QUANTLAB_RAW_URL"]), spec)
END
part="$(find "$QUANTLAB_RAW_URL" -path '*stream=bbo/symbol=ethusdt*' -name '*.parquet' | sort | tail -1)"
cp "$part" good
head -c 100 good > "$part"
expect 1 quantlab compact --date "$day"
expect 1 quantlab status
cp good "$part"
quantlab compact --date "$day"
expect 0 quantlab status

printf '\nThe first hour is over: all of it worked.\n'
