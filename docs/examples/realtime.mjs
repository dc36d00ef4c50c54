// Prints what is said in a file of raw PCM (16 bit, mono, 24 kHz) while it is played.
//
//     npm install ws
//     ffmpeg -i talk.wav -f s16le -ac 1 -ar 24000 talk.pcm
//     node realtime.mjs talk.pcm
//
// The SDK's own `OpenAIRealtimeWS` speaks the same, but to wss:// addresses alone: take it where
// the server is behind TLS.
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import WebSocket from "ws";

const PACKET_MS = 100;
const QUIET_MS = 3_000; // after the file: all was said

const socket = new WebSocket("ws://127.0.0.1:15751/v1/realtime?intent=transcription", {
  headers: { Authorization: "Bearer unused" },
});
const send = (event) => socket.send(JSON.stringify(event));

let quiet;
let isPlayed = false;
const wait = () => {
  clearTimeout(quiet);
  if (isPlayed) quiet = setTimeout(() => socket.close(), QUIET_MS);
};

socket.on("open", async () => {
  send({
    type: "session.update",
    session: {
      type: "transcription",
      audio: {
        input: {
          format: { type: "audio/pcm", rate: 24_000 },
          transcription: { model: "gpt-4o-transcribe", language: "en" },
          turn_detection: { type: "server_vad", silence_duration_ms: 500 },
        },
      },
    },
  });
  const bytes = (24_000 * 2 * PACKET_MS) / 1_000;
  const sound = fs.readFileSync(process.argv[2]);
  for (let at = 0; at < sound.length; at += bytes) {
    const packet = sound.subarray(at, at + bytes);
    send({ type: "input_audio_buffer.append", audio: packet.toString("base64") });
    await sleep(PACKET_MS);
  }
  isPlayed = true;
  wait();
});

socket.on("message", (data) => {
  const event = JSON.parse(data);
  wait();
  switch (event.type) {
    case "conversation.item.input_audio_transcription.delta":
      process.stdout.write(event.delta);
      break;
    case "conversation.item.input_audio_transcription.completed":
      console.log(`\n= ${event.transcript}`);
      break;
    case "error":
      throw new Error(event.error.message);
  }
});
