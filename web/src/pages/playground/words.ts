import { words } from '../../i18n/language';

const en = {
  title: 'Playground',
};

const zh: Record<keyof typeof en, string> = {
  title: '对比试用',
};

export const useSay = words(en, zh);
