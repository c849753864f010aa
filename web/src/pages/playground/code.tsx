import { Button, CopyButton, Group, Modal, SegmentedControl, Select, Stack } from '@mantine/core';
import { useState } from 'react';

import { carries } from '../../api/client';
import { bodyOf, messagesFor } from './conversation';
import { type Language, snippet } from './snippets';
import type { Talk } from './talk';
import { useSay } from './words';

const LANGUAGES: { value: Language; label: string }[] = [
  { value: 'curl', label: 'curl' },
  { value: 'python', label: 'Python' },
  { value: 'javascript', label: 'JavaScript' },
];

/** The next call of a column, or the last one where nothing is written, to be made elsewhere. */
export function CodeWindow({ talk, opened, close }: { talk: Talk; opened: boolean; close: () => void }) {
  const say = useSay();
  const [language, setLanguage] = useState<Language>('curl');
  const [chosen, choose] = useState<string | null>(null);
  const column = talk.columns.find((each) => each.key === chosen) ?? talk.columns[0];
  const text = column ? snippet(language, window.location.origin, calling(talk, column.key, column.model), carries()) : '';
  return (
    <Modal opened={opened} onClose={close} title={say('code.title')} size="xl" lockScroll={false} closeButtonProps={{ 'aria-label': say('close') }}>
      <Stack gap="sm">
        <Group gap="sm" align="flex-end">
          <Select
            label={say('code.column')}
            data={talk.columns.map((each, at) => ({ value: each.key, label: `${at + 1}: ${each.model}` }))}
            value={column?.key ?? null}
            onChange={choose}
            allowDeselect={false}
          />
          <SegmentedControl aria-label={say('code.language')} data={LANGUAGES} value={language} onChange={(value) => setLanguage(value as Language)} />
          <CopyButton value={text}>
            {({ copied, copy }) => <Button onClick={copy}>{say(copied ? 'code.copied' : 'code.copy')}</Button>}
          </CopyButton>
        </Group>
        <div className="answer"><pre className="code" tabIndex={0} aria-label={say('code.title')}>{text}</pre></div>
      </Stack>
    </Modal>
  );
}

function calling(talk: Talk, column: string, model: string): Record<string, unknown> {
  const last = talk.turns.at(-1);
  const writing = talk.draft.trim() !== '' || !last;
  const before = writing ? talk.turns : talk.turns.slice(0, -1);
  const prompt = writing ? talk.draft : last.prompt;
  return bodyOf(model, messagesFor(before, column, prompt, talk.parameters.system), talk.parameters);
}
