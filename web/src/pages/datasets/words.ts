import { words } from '../../i18n/language';

const en = {
  title: 'Datasets',
};

const zh: Record<keyof typeof en, string> = {
  title: '数据集',
};

export const useSay = words(en, zh);
