import { Group, SegmentedControl, Stack, Text, useMantineColorScheme } from '@mantine/core';
import { useId } from 'react';

import { type Language, useLanguage } from '../../i18n/language';
import { useSay } from './words';

/** Language and theme, kept in this browser. */
export function Looks() {
  const say = useSay();
  const { language, speak } = useLanguage();
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const [languages, themes] = [useId(), useId()];
  return (
    <Stack gap="md">
      <Group gap="md">
        <Text size="sm" id={languages} w="5rem">{say('language')}</Text>
        <SegmentedControl
          aria-labelledby={languages}
          data={[{ value: 'zh', label: '中文' }, { value: 'en', label: 'English' }]}
          value={language}
          onChange={(value) => speak(value as Language)}
        />
      </Group>
      <Group gap="md">
        <Text size="sm" id={themes} w="5rem">{say('theme')}</Text>
        <SegmentedControl
          aria-labelledby={themes}
          data={(['light', 'dark', 'auto'] as const).map((value) => ({ value, label: say(`theme.${value}`) }))}
          value={colorScheme}
          onChange={(value) => setColorScheme(value as 'light' | 'dark' | 'auto')}
        />
      </Group>
      <Text size="sm" c="dimmed">{say('looks.kept')}</Text>
    </Stack>
  );
}
