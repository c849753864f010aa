import { Button, CopyButton, Group, Stack, Tabs, Text } from '@mantine/core';
import { IconCheck, IconCopy } from '@tabler/icons-react';

import type { RunInFull } from './api';
import { useSay } from './words';

/** What makes the run again: as a command line and as the body of a request. */
export function Recipe({ run }: { run: RunInFull }) {
  const say = useSay();
  const body = JSON.stringify(Object.fromEntries(Object.entries(run.request).filter(([, value]) => value !== null)), null, 2);
  return (
    <Tabs defaultValue="line">
      <Tabs.List mb="sm">
        <Tabs.Tab value="line">{say('recipe.line')}</Tabs.Tab>
        <Tabs.Tab value="json">{say('recipe.json')}</Tabs.Tab>
      </Tabs.List>
      <Tabs.Panel value="line"><Copied text={run.command} /></Tabs.Panel>
      <Tabs.Panel value="json">
        <Stack gap="xs">
          <Text size="sm">{say('recipe.json.help')}</Text>
          <Copied text={body} />
        </Stack>
      </Tabs.Panel>
    </Tabs>
  );
}

function Copied({ text }: { text: string }) {
  const say = useSay();
  return (
    <Stack gap="xs">
      <pre
        tabIndex={0}
        aria-label={say('recipe.title')}
        style={{
          margin: 0, padding: 12, borderRadius: 8, fontSize: 12.5, maxHeight: 320, overflow: 'auto',
          whiteSpace: 'pre-wrap', overflowWrap: 'anywhere', background: 'var(--mantine-color-default-hover)',
        }}
      >
        {text}
      </pre>
      <Group>
        <CopyButton value={text}>
          {({ copied, copy }) => (
            <Button size="xs" variant="default" onClick={copy} leftSection={copied ? <IconCheck size={14} /> : <IconCopy size={14} />}>
              {say(copied ? 'copied' : 'copy')}
            </Button>
          )}
        </CopyButton>
      </Group>
    </Stack>
  );
}
