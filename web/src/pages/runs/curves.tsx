import { Box, Group, SegmentedControl, Slider, Stack, Switch, Text } from '@mantine/core';
import { useMemo, useState } from 'react';

import { Chart, type Line } from '../../parts/chart';
import { short } from '../../parts/chart-numbers';
import { smoothed, weightFor } from '../../parts/smoothing';
import type { Columns, Points } from './points';
import { type Key, useSay } from './words';

/** One run's curves of the page, or several runs'. */
export interface Named {
  name: string;
  points: Points;
}

const KINDS = ['loss', 'rate', 'speed', 'norm'] as const;
type Kind = (typeof KINDS)[number];
const COLUMN: Record<Kind, string> = {
  loss: 'loss', rate: 'learning_rate', speed: 'tokens_per_second', norm: 'grad_norm',
};

/** Curves with what one may turn: which, how smooth, on which scale. */
export function Curves({ runs, ended }: { runs: Named[]; ended: boolean }) {
  const say = useSay();
  const [kind, setKind] = useState<Kind>('loss');
  const [log, setLog] = useState(false);
  const [smoothing, setSmoothing] = useState(0);
  const lines = useMemo(() => linesOf(runs, kind, smoothing, say), [runs, kind, smoothing, say]);
  const points = runs.reduce((sum, run) => sum + run.points.training.step.length, 0);
  const whole = runs.every((run) => run.points.whole);
  if (points === 0) return <Text>{say(!whole ? 'curve.loading' : ended ? 'curve.never' : 'curve.none')}</Text>;
  return (
    <Stack gap="sm">
      <Group gap="lg" align="center">
        <SegmentedControl
          aria-label={say('curve.which')}
          value={kind}
          onChange={(next) => setKind(next as Kind)}
          data={KINDS.map((each) => ({ value: each, label: say(`curve.${each}`) }))}
          style={{ maxWidth: '100%', overflowX: 'auto' }}
        />
        <Switch label={say('curve.log')} checked={log} onChange={(event) => setLog(event.currentTarget.checked)} />
        <Group gap="xs" wrap="nowrap" style={{ flex: '0 1 16rem', minWidth: 180 }}>
          <Text size="sm">{say('curve.smoothing')}</Text>
          <Slider
            style={{ flex: 1 }}
            min={0}
            max={0.99}
            step={0.01}
            value={smoothing}
            onChange={setSmoothing}
            label={(value) => value.toFixed(2)}
            thumbLabel={say('curve.smoothing')}
          />
        </Group>
      </Group>
      <Chart lines={lines} log={log} description={lines.filter((line) => !line.faint).map((line) => described(line, say)).join('. ')} />
      <Box><Text size="xs">{say('curve.hint')}</Text></Box>
    </Stack>
  );
}

type Say = (key: Key, values?: Record<string, string | number>) => string;

function linesOf(runs: Named[], kind: Kind, smoothing: number, say: Say): Line[] {
  const lines: Line[] = [];
  runs.forEach(({ name, points }, index) => {
    const several = runs.length > 1;
    const titled = (key: Key) => (several ? `${name} · ${say(key)}` : say(key));
    // in one run's picture the two losses have a color each; in several runs' picture each run has
    const first = several ? index : 0;
    const training = curve(points.training, COLUMN[kind]);
    const label = kind === 'loss' ? titled('curve.training') : titled(`curve.${kind}`);
    if (smoothing > 0) {
      lines.push({ ...training, label: `${label} `, color: first, faint: true });
      lines.push({ x: training.x, y: smoothed(training.y, weightFor(smoothing, training.y.length)), label: `${label} (${say('curve.smoothed')})`, color: first });
    } else {
      lines.push({ ...training, label, color: first });
    }
    if (kind === 'loss' && points.validation.step.length > 0) {
      const color = several ? index : 1;
      lines.push({ ...curve(points.validation, 'loss'), label: titled('curve.validation'), color, dots: true });
    }
  });
  return lines;
}

const curve = (columns: Columns, name: string) => ({ x: columns.step, y: columns[name] ?? [] });

function described(line: Line, say: Say): string {
  const last = line.y[line.y.length - 1];
  return say('curve.says', {
    name: line.label,
    count: line.x.length,
    first: line.x[0] ?? 0,
    last: line.x[line.x.length - 1] ?? 0,
    value: last == null ? '–' : short(last),
  });
}
