import { Button, Group, Paper, Stack, Text } from '@mantine/core';
import { type KeyboardEvent, memo, useEffect, useRef } from 'react';

import { AnswerCard } from './answer';
import { type Answer, hidden, live, type Turn, type Verdict } from './conversation';
import { askAgain, judge } from './talk';
import { useSay } from './words';

const VERDICTS: Exclude<Verdict, 'skipped'>[] = ['left', 'right', 'tie', 'bad'];
const SIDES = ['left', 'right'] as const;

/** A question and its answers side by side; hidden sides wait for a judgement. */
export const TurnShown = memo(function TurnShown({ turn, raw, last }: { turn: Turn; raw: boolean; last: boolean }) {
  const say = useSay();
  const covered = hidden(turn);
  const side = (at: number): string | null => (covered ? say(SIDES[at] ?? 'right') : null);
  const retry = (answer: Answer): (() => void) | null =>
    last && turn.verdict === null ? () => askAgain(turn.key, answer.column) : null;
  return (
    <Stack gap="sm" component="section" aria-label={turn.prompt.slice(0, 80)}>
      <div className="asked">
        <Text size="xs" c="dimmed">{say('you')}</Text>
        <div className="said">{turn.prompt}</div>
      </div>
      <div className="columns" style={{ '--columns': turn.answers.length } as React.CSSProperties}>
        {turn.answers.map((answer, at) => (
          <AnswerCard
            key={answer.column}
            answer={answer}
            side={side(at)}
            preferred={turn.verdict === SIDES[at]}
            raw={raw}
            again={retry(answer)}
          />
        ))}
      </div>
      {covered && <Judging turn={turn} />}
      {turn.verdict !== null && <Text size="sm" c="dimmed" role="status">{say(`judged.${turn.verdict}`)}</Text>}
    </Stack>
  );
});

function Judging({ turn }: { turn: Turn }) {
  const say = useSay();
  // an answer that nobody could give cannot be worse than another
  const ready = !turn.answers.some(live);
  const both = turn.answers.length === 2 && turn.answers.every((answer) => answer.state === 'done');
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const at = document.activeElement;
    // nothing can be asked before the vote: whoever waits in the empty prompt box may press a key for it
    if (both && at instanceof HTMLTextAreaElement && at.value === '') place.current?.focus({ preventScroll: true });
  }, [both]);
  const pressed = (event: KeyboardEvent): void => {
    const verdict = VERDICTS[Number(event.key) - 1];
    if (!both || verdict === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    judged(verdict);
  };
  const judged = (verdict: Verdict): void => {
    judge(turn.key, verdict);
    document.querySelector<HTMLElement>('.asking textarea')?.focus({ preventScroll: true });
  };
  return (
    <Paper
      ref={place} withBorder p="sm" role="group" tabIndex={-1} aria-label={say('judge')} title={say('judge.keys')} onKeyDown={pressed}
    >
      <Group justify="center" gap="sm">
        <Text fw={600}>{say('judge')}</Text>
        {VERDICTS.map((verdict, at) => (
          <Button key={verdict} variant="default" disabled={!both} aria-keyshortcuts={String(at + 1)} onClick={() => judged(verdict)}>
            {say(`judge.${verdict}`)}
          </Button>
        ))}
        <Button variant="subtle" disabled={!ready} onClick={() => judged('skipped')}>{say('judge.skip')}</Button>
      </Group>
    </Paper>
  );
}
