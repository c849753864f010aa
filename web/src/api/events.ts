/** One event of a stream. */
export interface StreamEvent {
  event: string;
  data: string;
}

/** The events in `body` (text/event-stream), whole however the bytes were cut; see WHATWG, server-sent events. */
export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamEvent> {
  const reader = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>).getReader();
  let rest = '';
  try {
    while (true) {
      const { done, value } = await reader.read();
      rest += value ?? '';
      const parts = rest.split(/\r?\n\r?\n/);
      rest = done ? '' : (parts.pop() ?? '');
      for (const part of parts) {
        const found = parsed(part);
        if (found) yield found;
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function parsed(part: string): StreamEvent | null {
  let event = 'message';
  const data: string[] = [];
  for (const line of part.split(/\r?\n/)) {
    if (line.startsWith('data:')) data.push(line.slice(line.startsWith('data: ') ? 6 : 5));
    else if (line.startsWith('event:')) event = line.slice(6).trim();
  }
  return data.length ? { event, data: data.join('\n') } : null;
}
