import 'uplot/dist/uPlot.min.css';
import './chart.css';

import { ActionIcon, Box, Group, useComputedColorScheme } from '@mantine/core';
import { useElementSize } from '@mantine/hooks';
import { IconArrowLeft, IconArrowRight, IconArrowsMaximize, IconZoomIn, IconZoomOut } from '@tabler/icons-react';
import { type KeyboardEvent, type ReactNode, useCallback, useEffect, useRef } from 'react';
import uPlot from 'uplot';

import { words } from '../i18n/language';
import { short } from './chart-numbers';
import { type Curve, thinned } from './thinning';

const useSay = words(
  { in: 'Zoom in', out: 'Zoom out', left: 'Move left', right: 'Move right', all: 'Show all', step: 'step' },
  { in: '放大', out: '缩小', left: '向左移动', right: '向右移动', all: '显示全部', step: '步' },
);
// two sets of colors that keep 3:1 on their ground, told apart by people who see fewer colors, too
const LIGHT = ['#1864ab', '#c2410c', '#2b8a3e', '#862e9c', '#8f5a00', '#0b7285', '#a61e4d', '#495057'];
const DARK = ['#74c0fc', '#ffa94d', '#8ce99a', '#e599f7', '#ffe066', '#66d9e8', '#faa2c1', '#ced4da'];

const LEGEND = 34; // pixels of its first row: nothing jumps when the picture comes

export interface Line extends Curve {
  label: string;
  /** which color of the palette; lines of one thing share it */
  color: number;
  /** drawn thin and pale, behind the others, and without a place in the legend */
  faint?: boolean;
  /** few points, each of which is shown */
  dots?: boolean;
}

interface Props {
  lines: Line[];
  /** what the picture shows, for who does not see it */
  description: string;
  log?: boolean;
  height?: number;
  digits?: (value: number) => string;
}

/** Curves over steps. However many points there are, only what can be seen is drawn: the wheel and the buttons zoom,
 * dragging chooses a range, a double click shows all again. */
export function Chart({ lines, description, log = false, height = 280, digits = short }: Props) {
  const say = useSay();
  const dark = useComputedColorScheme('light') === 'dark';
  const { ref: sized, width } = useElementSize();
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const all = useRef(lines);
  const range = useRef<[number, number] | null>(null); // null shows all, also what comes later
  all.current = lines;
  const drawn = useCallback((picture: uPlot) => {
    const [from, to] = range.current ?? bounds(all.current);
    picture.setData(aligned(all.current, from, to, picture.width, log), false);
    picture.setScale('x', { min: from, max: to });
  }, [log]);
  const show = useCallback((next: [number, number] | null) => {
    if (!plot.current) return;
    range.current = next && within(next, bounds(all.current));
    drawn(plot.current);
  }, [drawn]);
  const zoom = useCallback((factor: number, at = 0.5) => {
    const [from, to] = range.current ?? bounds(all.current);
    const middle = from + (to - from) * at;
    show([middle - (middle - from) * factor, middle + (to - middle) * factor]);
  }, [show]);
  const move = (share: number) => {
    const [from, to] = range.current ?? bounds(all.current);
    show([from + (to - from) * share, to + (to - from) * share]);
  };
  const shape = lines.map((line) => `${line.label}|${line.color}|${line.faint ?? ''}|${line.dots ?? ''}`).join('\n');
  useEffect(() => {
    if (!place.current || width === 0) return;
    const options = optionsOf({ lines: all.current, dark, log, height, width, digits, step: say('step'), show });
    const picture = new uPlot(options, [[], ...all.current.map(() => [])] as uPlot.AlignedData, place.current);
    plot.current = picture;
    drawn(picture);
    const turn = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.shiftKey) return; // the page scrolls
      event.preventDefault();
      zoom(event.deltaY + event.deltaX < 0 ? 0.8 : 1.25, picture.cursor.left! / picture.over.clientWidth);
    };
    picture.over.addEventListener('wheel', turn, { passive: false });
    picture.over.addEventListener('dblclick', () => show(null));
    return () => {
      picture.destroy();
      plot.current = null;
    };
    // drawn anew where its shape is another one; new points only come into it
  }, [shape, dark, log, height, width, digits, say, drawn, show, zoom]);
  useEffect(() => {
    if (plot.current) drawn(plot.current);
  }, [lines, drawn]);
  const pressed = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.altKey || event.metaKey) return; // the browser's own
    const deed = {
      'ArrowLeft': () => move(-0.25), 'ArrowRight': () => move(0.25), '+': () => zoom(0.5), '=': () => zoom(0.5),
      '-': () => zoom(2), '0': () => show(null),
    }[event.key];
    if (!deed) return;
    event.preventDefault();
    deed();
  };
  return (
    <Box onKeyDown={pressed}>
      <Group gap={4} justify="flex-end" mb={4}>
        <Tool label={say('left')} press="ArrowLeft" onClick={() => move(-0.25)} icon={<IconArrowLeft size={16} />} />
        <Tool label={say('right')} press="ArrowRight" onClick={() => move(0.25)} icon={<IconArrowRight size={16} />} />
        <Tool label={say('in')} press="+" onClick={() => zoom(0.5)} icon={<IconZoomIn size={16} />} />
        <Tool label={say('out')} press="-" onClick={() => zoom(2)} icon={<IconZoomOut size={16} />} />
        <Tool label={say('all')} press="0" onClick={() => show(null)} icon={<IconArrowsMaximize size={16} />} />
      </Group>
      <div ref={sized}>
        <div ref={place} className="chart" role="img" aria-label={description} style={{ minHeight: height + LEGEND }} />
      </div>
    </Box>
  );
}

interface ToolGiven {
  label: string;
  /** the key that does the same while the focus is in the chart */
  press: string;
  onClick: () => void;
  icon: ReactNode;
}

function Tool({ label, press, onClick, icon }: ToolGiven) {
  const title = `${label} (${{ ArrowLeft: '←', ArrowRight: '→' }[press] ?? press})`;
  return <ActionIcon variant="default" size="md" aria-label={label} aria-keyshortcuts={press} title={title} onClick={onClick}>{icon}</ActionIcon>;
}

interface Wanted {
  lines: Line[];
  dark: boolean;
  log: boolean;
  height: number;
  width: number;
  digits: (value: number) => string;
  step: string;
  show: (range: [number, number] | null) => void;
}

function optionsOf({ lines, dark, log, height, width, digits, step, show }: Wanted): uPlot.Options {
  const ink = dark ? '#c9c9c9' : '#495057';
  const grid = { stroke: dark ? '#3b3b3b' : '#e9ecef', width: 1 };
  const axis = { stroke: ink, grid, ticks: grid, font: '12px system-ui, sans-serif' };
  const colors = dark ? DARK : LIGHT;
  const series = lines.map((line): uPlot.Series => {
    const color = colors[line.color % colors.length]!;
    return {
      label: line.label,
      stroke: line.faint ? `${color}66` : color,
      width: line.faint ? 1 : 2,
      points: { show: line.dots === true, size: 7 },
      value: (_, value) => (value == null ? '–' : digits(value)),
    };
  });
  return {
    width,
    height,
    scales: { x: { time: false, auto: false }, y: { distr: log ? 3 : 1, log: 10 } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : '')) },
      { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => (tick == null ? '' : digits(tick))) },
    ],
    series: [{ label: step, value: (_, value) => (value == null ? '–' : String(value)) }, ...series],
    cursor: { drag: { x: true, y: false, setScale: false, dist: 4 } },
    hooks: {
      setSelect: [
        (picture) => {
          const { left, width: chosen } = picture.select;
          if (chosen < 4) return;
          const range: [number, number] = [picture.posToVal(left, 'x'), picture.posToVal(left + chosen, 'x')];
          picture.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          show(range);
        },
      ],
    },
  };
}

/** The lines' visible points over one common axis. */
function aligned(lines: Line[], from: number, to: number, width: number, log: boolean): uPlot.AlignedData {
  const tables = lines.map((line): uPlot.AlignedData => {
    const { x, y } = thinned(line, from, to, width);
    // a logarithm has no place for what is not above zero
    return [x, log ? y.map((value) => (value != null && value > 0 ? value : null)) : y] as uPlot.AlignedData;
  });
  return tables.length ? uPlot.join(tables) : [[]];
}

function bounds(lines: Line[]): [number, number] {
  let low = Infinity;
  let high = -Infinity;
  for (const { x } of lines) {
    if (x.length === 0) continue;
    low = Math.min(low, x[0]!);
    high = Math.max(high, x[x.length - 1]!);
  }
  if (low > high) return [0, 1];
  return low === high ? [low - 1, high + 1] : [low, high];
}

/** `range` moved and cut to lie within `limits`; null where that is all of it. */
function within([from, to]: [number, number], [low, high]: [number, number]): [number, number] | null {
  const size = Math.max(2, to - from);
  if (size >= high - low) return null;
  const start = Math.min(Math.max(from, low), high - size);
  return [start, start + size];
}
