#!/usr/bin/env bash
# Looks at a server from outside, with tools that know nothing of it: test/conformance/run.sh [URL]
# Without a URL, at one of its own with the demo model (npm run build first). EXAMPLES=200 asks more per operation,
# ONLY=openapi|fuzz|metrics does one of the three.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/.venv
examples=${EXAMPLES:-50}
only=${ONLY:-openapi fuzz metrics}
scratch=$(mktemp -d)
server=
trap 'if [ -n "$server" ]; then kill "$server"; wait "$server" || true; fi; rm -rf "$scratch"' EXIT

if ! cmp --silent "$here/requirements.txt" "$venv/requirements.txt"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv"
fi

url=${1:-}
if [ -z "$url" ]; then
  node "$here/../../dist/main.js" serve --port 0 > "$scratch/server.log" &
  server=$!
  until url=$(grep -o '^coppice is ready at .*' "$scratch/server.log"); do
    kill -0 "$server"
    sleep 0.2
  done
  url=${url#coppice is ready at }
fi

cd "$scratch"
if [[ $only == *openapi* ]]; then
  curl --silent --show-error --fail "$url/openapi.json" --output openapi.json
  "$venv/bin/openapi-spec-validator" openapi.json
fi
if [[ $only == *fuzz* ]]; then
  checks=not_a_server_error,status_code_conformance,content_type_conformance
  checks+=,response_headers_conformance,response_schema_conformance,unsupported_method
  SCHEMATHESIS_HOOKS=$here/schemathesis_hooks.py "$venv/bin/schemathesis" \
    --config-file "$here/schemathesis.toml" run "$url/openapi.json" \
    --checks "$checks" --max-examples "$examples" --request-timeout 60
fi
if [[ $only == *metrics* ]]; then
  "$venv/bin/python" "$here/check_metrics.py" "$url"
fi
if [ -n "$server" ] && grep '"level":50' "$scratch/server.log"; then
  echo 'expected no internal errors in the log' >&2
  exit 1
fi
