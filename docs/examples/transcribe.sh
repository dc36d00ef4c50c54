#!/bin/sh
# Transcribes a file with curl: as JSON, as subtitles, and as events while it is worked on.
#
#     sh transcribe.sh talk.wav
#
# With an API key: add -H "Authorization: Bearer $KEY" to each call.
set -e
url=http://127.0.0.1:15751/v1/audio/transcriptions
file=${1:?which file?}

curl -sS "$url" -F file=@"$file"
echo
curl -sS "$url" -F file=@"$file" -F response_format=srt
curl -sSN "$url" -F file=@"$file" -F stream=true
