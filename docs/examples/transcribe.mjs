// Transcribes a file with OpenAI's SDK: whole, then as events while it is worked on.
//
//     npm install openai
//     node transcribe.mjs talk.wav
import fs from "node:fs";
import OpenAI from "openai";

const name = process.argv[2];
const client = new OpenAI({ baseURL: "http://127.0.0.1:15751/v1", apiKey: "unused" });

const found = await client.audio.transcriptions.create({
  file: fs.createReadStream(name),
  model: "whisper-1",
});
console.log(found.text);

const stream = await client.audio.transcriptions.create({
  file: fs.createReadStream(name),
  model: "whisper-1",
  stream: true,
});
for await (const event of stream) {
  if (event.type === "transcript.text.delta") process.stdout.write(event.delta);
}
console.log();
