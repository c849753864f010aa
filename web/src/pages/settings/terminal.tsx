import { Stack, Text } from '@mantine/core';

import { Command } from '../../parts/command';
import { type Key, useSay } from './words';

const VERBS: { about: Key; verb: string }[] = [
  { about: 'terminal.add', verb: 'users add NAME --admin' },
  { about: 'terminal.passwd', verb: 'users passwd NAME' },
  { about: 'terminal.enable', verb: 'users enable NAME' },
  { about: 'terminal.create', verb: 'keys create --user NAME --label "what for"' },
];

/** The same from a terminal of the server's machine: the way back in for who can log in no more. */
export function Terminal({ home, opened = false }: { home: string | null; opened?: boolean }) {
  const say = useSay();
  const where = home ? ` --home ${quoted(home)}` : '';
  return (
    <details open={opened}>
      <summary><Text size="sm" component="span">{say('terminal')}</Text></summary>
      <Stack gap="sm" mt="sm">
        <Text size="sm" c="dimmed">{say('terminal.about')}</Text>
        {VERBS.map(({ about, verb }) => (
          <div key={about}>
            <Text size="sm" mb={4}>{say(about)}</Text>
            <Command line={`tunesmith ${verb}${where}`} />
          </div>
        ))}
      </Stack>
    </details>
  );
}

/** As one word of a shell. */
const quoted = (path: string): string => (/^[\w@%+=:,./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);
