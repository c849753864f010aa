import { Autocomplete, type AutocompleteProps, Combobox } from '@mantine/core';
import { useQuery } from '@tanstack/react-query';

import { answer, api } from '../api/typed';
import { words } from '../i18n/language';

const en = {
  split: 'Splits', dataset: 'Datasets', upload: 'Uploaded files', sample: 'Sample data', choose: 'Choose, or type a name',
};
const zh: Record<keyof typeof en, string> = {
  split: '划分', dataset: '数据集', upload: '上传的文件', sample: '示例数据', choose: '选择，或输入名称',
};
const useSay = words(en, zh);
const ORDER = ['dataset', 'split', 'upload', 'sample'] as const;

/** Chooses data to read: a dataset, a split of one, an uploaded file, or any file under home by its name. */
export function DatasetSelect(props: Omit<AutocompleteProps, 'data'>) {
  const say = useSay();
  const known = useQuery({
    queryKey: ['train', 'datasets'],
    queryFn: async ({ signal }) => (await answer(api.GET('/train/datasets', { signal }))).datasets,
  });
  const counts = new Map(known.data?.map((each) => [each.dataset_path, each.examples]));
  const groups = ORDER.map((kind) => ({
    group: say(kind),
    items: [...new Set(known.data?.filter((each) => each.kind === kind).map((each) => each.dataset_path))],
  })).filter((each) => each.items.length > 0);
  return (
    <Autocomplete
      maxDropdownHeight={320}
      placeholder={say('choose')}
      rightSection={<Combobox.Chevron />}
      rightSectionPointerEvents="none"
      comboboxProps={{ withinPortal: true }}
      renderOption={({ option }) => {
        const count = counts.get(option.value);
        return (
          <span style={{ overflowWrap: 'anywhere' }}>
            {option.value}
            {count != null && <span className="numbers" style={{ opacity: 0.75 }}> · {count}</span>}
          </span>
        );
      }}
      {...props}
      data={groups}
    />
  );
}
