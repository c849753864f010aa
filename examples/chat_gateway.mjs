// A client of /api/chat/send that loses nothing, however the network cuts the stream. Run: node examples/chat_gateway.mjs
// (needs `tunesmith serve`; TUNESMITH_URL names another address)

const url = process.env.TUNESMITH_URL ?? 'http://127.0.0.1:8000';

/** Sends a message and calls `onText` with every piece of the answer; resolves to the last chunk. */
export async function sendMessage(body, onText = () => {}) {
  const response = await fetch(`${url}/api/chat/send`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  const decoder = new TextDecoder(); // `stream: true` keeps a character that is cut in two
  let rest = '';
  for await (const piece of response.body) {
    const frames = (rest + decoder.decode(piece, { stream: true })).split('\n\n');
    rest = frames.pop(); // the last may not be whole yet
    for (const frame of frames) {
      if (!frame.startsWith('data: ')) continue; // a comment keeps the connection open
      const chunk = JSON.parse(frame.slice(6));
      if (chunk.error) throw Object.assign(new Error(chunk.message), { code: chunk.code });
      if (chunk.done) return chunk;
      onText(chunk.message.content);
    }
  }
  throw new Error('the answer broke off');
}

if (process.argv[1].endsWith('chat_gateway.mjs')) {
  const message = process.argv[2] ?? '你好';
  const last = await sendMessage({ message, service: 'local' }, (text) => process.stdout.write(text));
  console.log(`\n-- ${last.model}, ${last.usage.completion_tokens} tokens`);
}
