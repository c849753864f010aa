import { Button, List, Stack, Text, TextInput } from '@mantine/core';
import { useId, useState } from 'react';

import { useSay } from './words';

const MOST = 30;

export interface Listed {
  id: string;
  facts: string;
}

/** The models of a provider, folded until asked for; of hundreds, those that hold what is typed. */
export function ModelList({ label, models }: { label: string; models: Listed[] }) {
  const say = useSay();
  const place = useId();
  const [opened, setOpened] = useState(false);
  const [part, setPart] = useState('');
  const found = models.filter((each) => each.id.toLowerCase().includes(part.trim().toLowerCase()));
  return (
    <Stack gap="xs">
      <Button
        size="xs" variant="default" aria-expanded={opened} aria-controls={place} style={{ alignSelf: 'flex-start' }}
        onClick={() => setOpened(!opened)}
      >
        {say(opened ? 'models.hide' : 'models.show', { count: models.length })}
      </Button>
      <div id={place} hidden={!opened}>
        {opened && (
          <Stack gap="xs">
            {models.length > 8 && (
              <TextInput
                size="xs" aria-label={say('models.find', { provider: label })} placeholder={say('models.find', { provider: label })}
                value={part} onChange={(event) => setPart(event.currentTarget.value)}
              />
            )}
            <List size="sm" listStyleType="none" spacing={6}>
              {found.slice(0, MOST).map((each) => (
                <List.Item key={each.id} style={{ overflowWrap: 'anywhere' }}>
                  {each.id}
                  {each.facts && <Text size="xs" c="dimmed" className="numbers">{each.facts}</Text>}
                </List.Item>
              ))}
            </List>
            {found.length > MOST && <Text size="sm" c="dimmed">{say('models.more', { count: found.length - MOST })}</Text>}
            {found.length === 0 && <Text size="sm" c="dimmed">{say('models.none')}</Text>}
          </Stack>
        )}
      </div>
    </Stack>
  );
}
