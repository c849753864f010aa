import './state-badge.css';

import { Badge } from '@mantine/core';

import { words } from '../i18n/language';

const en = {
  queued: 'queued', running: 'running', completed: 'completed', failed: 'failed', canceled: 'canceled',
  stopping: 'stopping',
};
const zh: Record<keyof typeof en, string> = {
  queued: '排队中', running: '进行中', completed: '已完成', failed: '失败', canceled: '已取消', stopping: '正在停止',
};
const useSay = words(en, zh);
const COLORS: Record<string, string> = {
  queued: 'gray', running: 'blue', completed: 'green', failed: 'red', canceled: 'gray', stopping: 'orange',
};

/** Where a run or an evaluation stands; a state nobody has heard of is shown as it is. */
export function StateBadge({ state, stopping = false }: { state: string; stopping?: boolean }) {
  const say = useSay();
  const shown = stopping && (state === 'running' || state === 'queued') ? 'stopping' : state;
  const text = shown in en ? say(shown as keyof typeof en) : shown;
  return <Badge variant="outline" className={`state state-${COLORS[shown] ?? 'gray'}`}>{text}</Badge>;
}
