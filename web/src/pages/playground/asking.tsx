import { Button, Group, Text, Textarea } from '@mantine/core';
import { IconPlayerStopFilled, IconSend2 } from '@tabler/icons-react';
import type { KeyboardEvent } from 'react';

import { busy, hidden } from './conversation';
import { ask, setDraft, stop, type Talk } from './talk';
import { useSay } from './words';

/** The one prompt box. `onAsk` is told before a question leaves. */
export function Asking({ talk, blocked, onAsk }: { talk: Talk; blocked: string | null; onAsk: () => void }) {
  const say = useSay();
  const writing = busy(talk.turns);
  const unjudged = talk.turns.some(hidden);
  const why = blocked ?? (unjudged && !writing ? say('judge.first') : null);
  const able = why === null && !writing && talk.columns.length > 0 && talk.draft.trim() !== '';
  const send = (): void => {
    if (!able) return;
    onAsk();
    ask(talk.draft);
  };
  const pressed = (event: KeyboardEvent): void => {
    // an input method's own Enter chooses a word, and sends nothing
    if (event.key !== 'Enter' || event.shiftKey || event.nativeEvent.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <div className="asking">
      <Group align="flex-end" gap="xs" wrap="nowrap">
        <Textarea
          label={say('prompt')}
          placeholder={say('prompt.hint')}
          autosize
          minRows={1}
          maxRows={8}
          value={talk.draft}
          onChange={(event) => setDraft(event.currentTarget.value)}
          onKeyDown={pressed}
          style={{ flex: 1 }}
        />
        {writing ? (
          <Button color="red" variant="outline" leftSection={<IconPlayerStopFilled size={16} />} onClick={stop}>
            {say('stop')}
          </Button>
        ) : (
          <Button leftSection={<IconSend2 size={16} />} onClick={send} disabled={!able}>{say('send')}</Button>
        )}
      </Group>
      {why && <Text size="sm" mt={4} c="dimmed" role="status">{why}</Text>}
    </div>
  );
}
