import { active, type Samples, type Task } from './api';

/** Where a newcomer stands; all of it is read from the server's record. */
export interface Tour {
  installed: boolean;
  /** The newest run on the sample data that is no dead end, else the newest of all. */
  run: Task | null;
  /** The newest completed one: what can be asked. */
  tuned: Task | null;
}

export type Standing = 'done' | 'next' | 'running' | 'later';

export function tourOf(samples: Samples, tasks: readonly Task[]): Tour {
  const path = samples.train.dataset_path;
  const runs = tasks.filter((task) => task.dataset_path === path);
  const tuned = runs.find((task) => task.status === 'completed') ?? null;
  return { installed: samples.installed, run: runs[0] ?? null, tuned };
}

/** How each of the three steps stands. */
export function standings(tour: Tour, answered: boolean): [Standing, Standing, Standing] {
  const trained: Standing = tour.run && active(tour.run.status) ? 'running' : tour.tuned ? 'done' : 'next';
  return [
    tour.installed ? 'done' : 'next',
    !tour.installed && trained === 'next' ? 'later' : trained,
    answered && tour.tuned ? 'done' : tour.tuned ? 'next' : 'later',
  ];
}

/** Whether somebody has not yet trained on anything but the samples. */
export const isNew = (samples: Samples, tasks: readonly Task[]): boolean =>
  !tasks.some((task) => task.status === 'completed' && task.dataset_path !== samples.train.dataset_path);

// the server keeps one conversation a question and model: an earlier question would be told to the model again
const PREFIX = 'first-run';

/** Under which id the server keeps what `side` said to the question numbered `number` after the run. */
export const conversationOf = (task: string, number: string, side: 'base' | 'tuned'): string =>
  `${PREFIX}.${task}.${number}.${side}`;

/** The number of the question asked last after the run, from ids with the newest first; null where none was. */
export function lastAsked(ids: readonly string[], task: string): string | null {
  const start = `${PREFIX}.${task}.`;
  const found = ids.find((id) => id.startsWith(start));
  return found ? (found.slice(start.length).split('.')[0] ?? null) : null;
}

/** The points of a line through `values`, in a box of that size, as SVG writes them.
 * However many values there are, no more points than the box is wide.
 */
export function linePoints(values: readonly (number | null)[], width: number, height: number): string {
  const real = values.filter((value): value is number => value !== null && Number.isFinite(value));
  const size = Math.max(1, Math.ceil(real.length / width));
  const means: number[] = [];
  for (let at = 0; at < real.length; at += size) {
    const part = real.slice(at, at + size);
    means.push(part.reduce((sum, value) => sum + value, 0) / part.length);
  }
  if (means.length < 2) return '';
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const span = high - low || 1;
  return means
    .map((value, at) => `${((at * width) / (means.length - 1)).toFixed(1)},${(height - ((value - low) / span) * height).toFixed(1)}`)
    .join(' ');
}

/** How long a run took, in seconds; null while it has not ended. */
export function took(task: Task): number | null {
  if (!task.started_at || !task.completed_at) return null;
  return (Date.parse(`${task.completed_at}Z`) - Date.parse(`${task.started_at}Z`)) / 1000;
}
