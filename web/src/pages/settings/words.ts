import { words } from '../../i18n/language';

const en = {
  title: 'Settings',
};

const zh: Record<keyof typeof en, string> = {
  title: '设置',
};

export const useSay = words(en, zh);
