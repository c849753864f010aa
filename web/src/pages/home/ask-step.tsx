import { Alert, Button, Group, Paper, Text, TextInput } from '@mantine/core';
import { useQuery, useQueryClient } from '@tanstack/react-query';
import { type FormEvent, useState } from 'react';
import { Link } from 'wouter';

import { Failure } from '../../api/client';
import { useLanguage } from '../../i18n/language';
import { asked, conversations, kept, type KeptTurn, type Samples, type Task } from './api';
import { conversationOf } from './tour';
import { useSay } from './words';

interface Words {
  text: string;
  state: 'writing' | 'done' | 'cut' | 'failed';
  error: string | null;
}

interface Talk {
  question: string;
  base: Words;
  tuned: Words;
}

type Side = 'base' | 'tuned';
const SIDES: Side[] = ['base', 'tuned'];
const NOTHING: Words = { text: '', state: 'writing', error: null };

/** Asks the base and the tuned model the same; what was asked last is the server's record, and shown again. */
export function AskStep({ samples, tuned, last }: { samples: Samples; tuned: Task; last: string | null }) {
  const say = useSay();
  const { language } = useLanguage();
  const { talk, ask } = useAsking(tuned);
  const before = useKept(tuned, talk === null ? last : null);
  const [own, setOwn] = useState('');
  const shown = talk ?? before;
  const writing = talk !== null && SIDES.some((side) => talk[side].state === 'writing');
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (own.trim() && !writing) ask(own);
  };
  const known = [...samples.questions, ...samples.examples.map((each) => ({ ...each, expected: each.answer }))];
  const expected = shown && known.find((each) => each.question === shown.question)?.expected;
  const names = { base: tuned.base_model, tuned: tuned.output_dir };
  return (
    <>
      <Text c="dimmed">{say('ask.why')}</Text>
      <Group gap="xs" role="group" aria-label={say('ask.choose')}>
        {samples.questions.filter((each) => each.language === language).map((each) => (
          <Button
            key={each.question}
            size="xs"
            className={each.question === shown?.question ? 'wrap chosen' : 'wrap'}
            variant="default"
            aria-pressed={each.question === shown?.question}
            disabled={writing}
            onClick={() => ask(each.question)}
          >
            {each.question}
          </Button>
        ))}
      </Group>
      <form onSubmit={submit}>
        <Group gap="xs" align="flex-end">
          <TextInput label={say('ask.own')} value={own} onChange={(event) => setOwn(event.currentTarget.value)} style={{ flex: '1 1 14rem' }} />
          <Button type="submit" variant="default" disabled={writing || !own.trim()}>{say('ask.do')}</Button>
        </Group>
      </form>
      {shown && (
        <>
          <Text fw={600} className="said">{shown.question}</Text>
          <div className="sides">
            {SIDES.map((side) => <Answer key={side} title={say(`ask.${side}`, { model: names[side] })} words={shown[side]} />)}
          </div>
          {expected && <Text size="sm">{say('ask.expected', { answer: expected })}</Text>}
          <Next base={tuned.base_model} adapter={tuned.output_dir} />
        </>
      )}
    </>
  );
}

function Answer({ title, words }: { title: string; words: Words }) {
  const say = useSay();
  return (
    <Paper withBorder p="sm" className="side" component="article" aria-label={title} aria-busy={words.state === 'writing'}>
      <Text size="sm" fw={600} mb={4} className="name">{title}</Text>
      {words.text && <div className="said">{words.text}</div>}
      {words.state === 'writing' && !words.text && <Text size="sm" c="dimmed">{say('ask.waiting')}</Text>}
      {words.state === 'cut' && <Text size="sm" c="dimmed" fs="italic">{say('ask.cut')}</Text>}
      {words.state === 'failed' && <Alert color="red" p="xs" role="alert">{say('ask.failed', { reason: words.error || say('ask.gone') })}</Alert>}
    </Paper>
  );
}

function Next({ base, adapter }: { base: string; adapter: string }) {
  const say = useSay();
  const name = encodeURIComponent(adapter);
  return (
    <Group gap="xs" role="group" aria-label={say('next')}>
      <Text fw={600}>{say('next')}</Text>
      <Button component={Link} href={`/playground?model=${encodeURIComponent(base)}&model=${name}`} variant="default" size="xs" className="wrap">{say('next.compare')}</Button>
      <Button component={Link} href={`/evaluation/new?model=${name}`} variant="default" size="xs" className="wrap">{say('next.measure')}</Button>
      <Button component={Link} href="/datasets" variant="default" size="xs" className="wrap">{say('next.own')}</Button>
    </Group>
  );
}

/** What this page asks now. Leaving it does not stop an answer: the server keeps it. */
function useAsking(tuned: Task): { talk: Talk | null; ask: (question: string) => void } {
  const client = useQueryClient();
  const [talk, setTalk] = useState<Talk | null>(null);
  const told = (question: string, side: Side, changes: (old: Words) => Partial<Words>): void =>
    setTalk((now) => (now?.question === question ? { ...now, [side]: { ...now[side], ...changes(now[side]) } } : now));
  const one = async (question: string, side: Side, number: string): Promise<void> => {
    const model = side === 'base' ? tuned.base_model : tuned.output_dir;
    try {
      for await (const text of asked(model, question, conversationOf(tuned.task_id, number, side))) {
        told(question, side, (old) => ({ text: old.text + text }));
      }
      told(question, side, () => ({ state: 'done' }));
    } catch (error) {
      const reason = error instanceof Failure && error.status !== 0 ? error.message : null;
      told(question, side, () => ({ state: 'failed', error: reason }));
    }
  };
  const ask = (question: string): void => {
    const number = Date.now().toString(36);
    setTalk({ question, base: NOTHING, tuned: NOTHING });
    const both = Promise.all(SIDES.map((side) => one(question, side, number)));
    void both.then(() => client.invalidateQueries({ queryKey: conversations.queryKey }));
  };
  return { talk, ask };
}

const STATES: Record<KeptTurn['state'], Words['state']> = { running: 'writing', completed: 'done', failed: 'failed', canceled: 'cut' };

/** What was asked under `number`, from the server's record; null where nothing was. */
function useKept(tuned: Task, number: string | null): Talk | null {
  const id = (side: Side): string => conversationOf(tuned.task_id, number ?? '-', side);
  const base = useQuery({ ...kept(id('base')), enabled: number !== null });
  const after = useQuery({ ...kept(id('tuned')), enabled: number !== null });
  const question = base.data?.message ?? after.data?.message;
  // both or none: half a record would look like an answer that was cut off
  if (number === null || base.isPending || after.isPending || question === undefined) return null;
  const words = (turn: typeof base.data): Words =>
    turn ? { text: turn.response, state: STATES[turn.state], error: null } : { ...NOTHING, state: 'cut' };
  return { question, base: words(base.data), tuned: words(after.data) };
}
