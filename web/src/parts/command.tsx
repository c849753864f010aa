import { ActionIcon, CopyButton, Group, Tooltip } from '@mantine/core';
import { IconCheck, IconCopy } from '@tabler/icons-react';

import { words } from '../i18n/language';

const useSay = words({ copy: 'Copy', copied: 'Copied' }, { copy: '复制', copied: '已复制' });

/** A line for the terminal, to be copied. */
export function Command({ line }: { line: string }) {
  const say = useSay();
  return (
    <Group gap="xs" wrap="nowrap" align="flex-start">
      <code
        style={{
          flex: 1, minWidth: 0, overflowWrap: 'anywhere', padding: '.4rem .6rem', borderRadius: '.4rem',
          fontSize: 'var(--mantine-font-size-sm)', background: 'var(--mantine-color-default-hover)',
        }}
      >
        {line}
      </code>
      <CopyButton value={line}>
        {({ copied, copy }) => (
          <Tooltip label={say(copied ? 'copied' : 'copy')} withinPortal={false}>
            <ActionIcon variant="default" size="lg" onClick={copy} aria-label={`${say(copied ? 'copied' : 'copy')}: ${line}`}>
              {copied ? <IconCheck size={16} /> : <IconCopy size={16} />}
            </ActionIcon>
          </Tooltip>
        )}
      </CopyButton>
    </Group>
  );
}
