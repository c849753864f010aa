import { Box, Button, Group, Stack, Switch, Text, TextInput } from '@mantine/core';
import { useEffect, useMemo, useRef, useState } from 'react';

import { Failure } from '../../api/client';
import type { components } from '../../api/schema/gpt_service';
import { answer, api } from '../../api/typed';
import { Failed } from '../../parts/failed';
import { live } from './api';
import { useSay } from './words';

const PIECE = 262_144; // bytes, as the server cuts them
const MOST_LINES = 4_000; // drawn at once; searching looks at all that has come

type Piece = components['schemas']['RunLog'];

/** What the trainer of a run prints, as it prints it. */
export function Log({ id }: { id: string }) {
  const say = useSay();
  const { text, start, failure, earlier } = useLog(id);
  const [follow, setFollow] = useState(true);
  const [wanted, setWanted] = useState('');
  const box = useRef<HTMLDivElement>(null);
  const lines = useMemo(() => text.replace(/\n$/, '').split('\n'), [text]);
  const found = useMemo(
    () => (wanted ? lines.filter((line) => line.toLowerCase().includes(wanted.toLowerCase())) : lines),
    [lines, wanted],
  );
  useEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [found, follow]);
  return (
    <Stack gap="sm">
      <Group align="end">
        <TextInput label={say('log.find')} value={wanted} onChange={(event) => setWanted(event.currentTarget.value)} />
        <Switch label={say('log.follow')} checked={follow} onChange={(event) => setFollow(event.currentTarget.checked)} mb={8} />
        {wanted && <Text size="sm" mb={8} role="status" className="numbers">{say('log.found', { count: found.length })}</Text>}
        {start > 0 && <Button variant="default" size="xs" mb={4} onClick={() => { setFollow(false); earlier(); }}>{say('log.earlier')}</Button>}
      </Group>
      {failure && <Failed error={failure} />}
      <Box
        ref={box}
        tabIndex={0}
        role="log"
        aria-label={say('log.title')}
        onWheel={(event) => { if (event.deltaY < 0) setFollow(false); }}
        style={{
          maxHeight: 360, overflow: 'auto', padding: 12, borderRadius: 8,
          background: 'var(--mantine-color-default-hover)', border: '1px solid var(--mantine-color-default-border)',
        }}
      >
        {text === '' ? <Text size="sm">{say('log.none')}</Text> : (
          <pre style={{ margin: 0, fontSize: 12.5, whiteSpace: 'pre-wrap', overflowWrap: 'anywhere' }}>
            {found.slice(-MOST_LINES).join('\n')}
          </pre>
        )}
      </Box>
    </Stack>
  );
}

function useLog(id: string) {
  const [log, setLog] = useState({ text: '', start: 0, end: 0 });
  const [failure, setFailure] = useState<Failure | null>(null);
  useEffect(() => {
    const left = new AbortController();
    void (async () => {
      let end: number | null = null;
      while (!left.signal.aborted) {
        try {
          const piece: Piece = await read(id, end, left.signal);
          const first = end === null;
          end = piece.end;
          if (first) setLog({ text: piece.text, start: piece.start, end: piece.end });
          else if (piece.text) setLog((known) => ({ ...known, text: known.text + piece.text, end: piece.end }));
          setFailure(null);
          if (piece.end < piece.size && piece.text) continue;
          if (!live(piece)) return;
        } catch (error) {
          if (left.signal.aborted) return;
          setFailure(error instanceof Failure ? error : new Failure(0, String(error)));
        }
        await new Promise((resolve) => setTimeout(resolve, 1_500));
      }
    })();
    return () => left.abort();
  }, [id]);
  const earlier = () => {
    const from = Math.max(0, log.start - PIECE);
    read(id, from).then(
      (piece) => setLog((known) => (known.start === log.start ? { ...known, text: piece.text + known.text, start: from } : known)),
      (error: unknown) => setFailure(error instanceof Failure ? error : new Failure(0, String(error))),
    );
  };
  return { ...log, failure, earlier };
}

const read = (id: string, after: number | null, signal: AbortSignal | null = null): Promise<Piece> =>
  answer(api.GET('/train/log/{task_id}', { params: { path: { task_id: id }, query: { after } }, signal }));
