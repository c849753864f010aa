import { useSearchParams } from 'wouter';

import '../../parts/quiet.css';

import { OneModel } from './one';
import { Overview } from './overview';

/** All models, or the one that the address names: names hold slashes, so it is no part of the path. */
export default function Page() {
  const [asked] = useSearchParams();
  const name = asked.get('name');
  return name ? <OneModel key={name} name={name} /> : <Overview />;
}
