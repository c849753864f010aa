import { Alert, Button, Group, Paper, Text } from '@mantine/core';

import { useLanguage } from '../../i18n/language';
import { Markdown } from '../../parts/markdown';
import { type Answer, live, speedOf } from './conversation';
import { useSay } from './words';

interface Given {
  answer: Answer;
  /** What stands above it instead of the model's name, while that is hidden. */
  side: string | null;
  preferred: boolean;
  raw: boolean;
  again: (() => void) | null;
}

/** One answer, as far as it is written, and how fast it came. */
export function AnswerCard({ answer, side, preferred, raw, again }: Given) {
  const say = useSay();
  const name = side ?? answer.model;
  const other = side === null && answer.spoke !== null && answer.spoke !== answer.model ? answer.spoke : null;
  return (
    <Paper
      component="article"
      withBorder
      p="sm"
      className="column"
      aria-label={name}
      aria-busy={live(answer)}
      {...(preferred ? { style: { borderColor: 'var(--mantine-color-anchor)', borderWidth: 2 } } : {})}
    >
      <Text size="sm" fw={600} mb={6} style={{ overflowWrap: 'anywhere' }} title={other ? say('spoke', { model: other }) : ''}>
        {name}{other ? ` → ${other}` : ''}
      </Text>
      <div className="text">
        <Words answer={answer} raw={raw} />
      </div>
      <Ending answer={answer} again={again} />
      {side === null && <Figures answer={answer} />}
    </Paper>
  );
}

function Words({ answer, raw }: { answer: Answer; raw: boolean }) {
  const say = useSay();
  if (answer.text) return raw ? <div className="said">{answer.text}</div> : <Markdown text={answer.text} growing={live(answer)} />;
  if (live(answer)) return <Text size="sm" c="dimmed">{say('waiting')}</Text>;
  return answer.state === 'done' ? <Text size="sm" c="dimmed">{say('nothing')}</Text> : null;
}

function Ending({ answer, again }: { answer: Answer; again: (() => void) | null }) {
  const say = useSay();
  if (answer.state === 'done' || live(answer)) return null;
  const button = again && <Button size="compact-sm" variant="default" onClick={again}>{say('again')}</Button>;
  if (answer.state === 'failed') {
    return (
      <Alert color="red" mt="xs" p="xs" title={say('failed')} role="alert">
        <Text size="sm" mb={button ? 'xs' : 0} style={{ overflowWrap: 'anywhere' }}>{answer.error || say('cut')}</Text>
        {button}
      </Alert>
    );
  }
  return (
    <Group mt="xs" gap="xs" justify="space-between">
      <Text size="sm" fs="italic" c="dimmed">{say(answer.state === 'stopped' ? 'stopped' : 'interrupted')}</Text>
      {button}
    </Group>
  );
}

function Figures({ answer }: { answer: Answer }) {
  const say = useSay();
  const { language } = useLanguage();
  const speed = speedOf(answer);
  const parts: string[] = [];
  if (answer.firstTokenMs !== null) parts.push(say('first', { time: milliseconds(answer.firstTokenMs, language) }));
  if (speed !== null) {
    const count = speed.perSecond.toFixed(speed.perSecond < 10 ? 1 : 0);
    parts.push(say('speed', { count: speed.exact ? count : `> ${count}` }));
  }
  if (answer.tokens !== null) parts.push(say('tokens', { count: answer.tokens }));
  if (answer.totalMs !== null) parts.push(say('in', { time: milliseconds(answer.totalMs, language) }));
  if (answer.finish === 'length') parts.push(say('length'));
  // its place is kept from the start, so that nothing below moves when the figures come
  return <Text size="xs" c="dimmed" mt="xs" mih="1.5em" className="numbers">{parts.join(' · ')}</Text>;
}

function milliseconds(ms: number, language: 'zh' | 'en'): string {
  if (ms < 1000) return `${Math.round(ms)} ${language === 'zh' ? '毫秒' : 'ms'}`;
  return `${(ms / 1000).toFixed(2)} ${language === 'zh' ? '秒' : 's'}`;
}
